"""Show a run while it goes, answer Ctrl-C, and end with its exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..console import Mode, choose_mode, view_for
from ..errors import ProvisionError

if TYPE_CHECKING:
    from ..console import View
    from ..run import Run

STOP_WITHIN_S = 90.0


def watch(begin: Callable[[], Awaitable[Run]], *, host: str, mode: Mode, stop_on_exit: bool) -> int:
    """Start or join a run by *begin*, show it to its end, and return the exit code."""
    with view_for(mode, host=host, stdout=sys.stdout, stderr=sys.stderr) as view:
        return asyncio.run(_watch(begin, view, stop_on_exit=stop_on_exit))


def mode_for(*, json: bool, quiet: bool, verbose: bool) -> Mode:
    """The view for these flags here; log lines and a live picture would garble each other."""
    is_terminal = sys.stderr.isatty() and not verbose
    return choose_mode(json=json, quiet=quiet, stderr_is_tty=is_terminal, environ=os.environ)


async def _watch(begin: Callable[[], Awaitable[Run]], view: View, *, stop_on_exit: bool) -> int:
    run = await begin()
    leaving: list[asyncio.Task[None]] = []

    def leave(exit_code: int) -> None:
        if leaving:
            return  # asked twice: it is under way
        leaving.append(asyncio.create_task(_leave(run, exit_code, stop_on_exit=stop_on_exit)))

    loop = asyncio.get_running_loop()
    for sign, exit_code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        loop.add_signal_handler(sign, leave, exit_code)
    async for event in run.events():
        if event["event"] == "outcome":
            view.outcome(event)
        else:
            view.event(event)
    outcome = await run.outcome()
    if leaving:
        await leaving[0]
        if run.status["verdict"] is None and run.is_started:
            _say_how_to_return(run)
    return int(outcome["exit_code"])


async def _leave(run: Run, exit_code: int, *, stop_on_exit: bool) -> None:
    if stop_on_exit:
        with suppress(ProvisionError, TimeoutError):
            async with asyncio.timeout(STOP_WITHIN_S):
                await run.stop()
                await run.outcome()
    await run.leave("cancelled", exit_code)


def _say_how_to_return(run: Run) -> None:
    print(
        f"the run goes on at {run.instance}: `provision attach {run.id}` comes back to it, "
        f"`provision stop {run.id}` ends it",
        file=sys.stderr,
    )


def print_outcome(outcome: dict[str, Any]) -> None:
    """The outcome as the only JSON line, for commands that end before there is a run."""
    import json

    print(json.dumps({"event": "outcome", **outcome}, ensure_ascii=False), flush=True)
