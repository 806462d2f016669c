"""What a signal does to a command that watches."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from provision_collector.cli.signals import on_signals


@pytest.mark.parametrize(
    ("hangup", "codes"), [(signal.SIG_DFL, [129, 143]), (signal.SIG_IGN, [143])], ids=["default", "nohup"]
)
def test_a_hangup_ends_a_command_unless_whoever_started_it_ignores_that(
    hangup: signal.Handlers, codes: list[int]
) -> None:
    async def signalled() -> list[int]:
        given: list[int] = []
        is_over = asyncio.Event()

        def leave(code: int) -> None:
            given.append(code)
            if code == 143:
                is_over.set()

        on_signals(leave)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(is_over.wait(), 60)
        return given

    before = signal.signal(signal.SIGHUP, hangup)
    try:
        assert asyncio.run(signalled()) == codes
    finally:
        signal.signal(signal.SIGHUP, before)
