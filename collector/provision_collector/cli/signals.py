"""How the commands that watch something end at a signal: they leave it as it is, with the exit code that shells give."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_signals(leave: Callable[[int], None], signs: Sequence[signal.Signals] = ENDING) -> None:
    """Have the running event loop call *leave* with 130, 143 or 129 at a signal of *signs*.

    A hangup that whoever started this command ignores (`nohup`) stays ignored.
    """
    loop = asyncio.get_running_loop()
    for sign in signs:
        if sign is signal.SIGHUP and signal.getsignal(sign) is signal.SIG_IGN:
            continue
        loop.add_signal_handler(sign, leave, 128 + sign)
