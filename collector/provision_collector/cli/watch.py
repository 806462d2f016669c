"""Show a run while it goes, answer Ctrl-C, and end with its exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..console import Mode, choose_mode, view_for
from ..errors import ProvisionError
from .last_word import LAST_WORD
from .output import tell
from .signals import on_signals

if TYPE_CHECKING:
    from ..console.view import View
    from ..run.outcome import Outcome
    from ..run.run import Run

STOP_WITHIN_S = 90.0


def watch(
    begin: Callable[[], Awaitable[Run]],
    *,
    host: str,
    mode: Mode,
    stop_on_exit: bool,
    gone_check: Sequence[str] | None = None,
    forwards_ports: bool = False,
) -> int:
    """Start or join a run by *begin*, show it to its end, and return the exit code.

    Args:
        stop_on_exit: A signal stops the run on the instance, too.
        gone_check: The words of a command that is asked without contact: does the instance still exist?
        forwards_ports: Bring the ports of its services here once it is usable; they stay until Ctrl-C.
    """
    try:
        with view_for(mode, host=host, stdout=sys.stdout, stderr=sys.stderr) as view:
            return asyncio.run(
                _watch(
                    begin,
                    view,
                    stop_on_exit=stop_on_exit,
                    gone_check=gone_check,
                    forwards_ports=forwards_ports,
                )
            )
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # or the interpreter complains when it flushes at its end
        return 141  # as of a program that SIGPIPE ended; the run goes on


def mode_for(*, json: bool, quiet: bool, verbose: bool) -> Mode:
    """The view for these flags here; log lines and a live picture would garble each other."""
    is_terminal = sys.stderr.isatty() and not verbose
    return choose_mode(json=json, quiet=quiet, stderr_is_tty=is_terminal, environ=os.environ)


async def _watch(
    begin: Callable[[], Awaitable[Run]],
    view: View,
    *,
    stop_on_exit: bool,
    gone_check: Sequence[str] | None,
    forwards_ports: bool,
) -> int:
    from ..pool.gone import leave_when_gone
    from .forward import ServicePorts

    run = await begin()
    view.follow(run.state)
    leaving: list[asyncio.Task[None]] = []
    is_over, is_left = asyncio.Event(), asyncio.Event()

    def leave(exit_code: int) -> None:
        is_left.set()
        if leaving or is_over.is_set():
            return  # asked twice, or there is nothing left to leave
        leaving.append(asyncio.create_task(_leave(run, exit_code, stop_on_exit=stop_on_exit)))

    on_signals(leave)
    ports = ServicePorts(run) if forwards_ports else None
    asking = asyncio.create_task(leave_when_gone(run, gone_check)) if gone_check else None
    async for event in run.events():
        if event["event"] == "outcome":
            view.outcome(event)
            LAST_WORD.is_said = True
        else:
            view.event(event)
        if ports is not None:
            ports.take(event)
    outcome = await run.outcome()
    is_over.set()
    if asking is not None:
        asking.cancel()
    if ports is not None:
        await ports.stay(is_left)
    if leaving:
        await leaving[0]
        if run.state.verdict is None and run.may_go_on:
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
    tell(
        f"the run goes on at {run.instance}: `provision attach {run.id}` comes back to it, "
        f"`provision stop {run.id}` ends it"
    )


def say_errors(outcome: Outcome) -> None:
    """What went wrong and what to do: for people, and the outcome for programs that asked for JSON."""
    from . import complain

    for error in outcome["errors"]:
        complain(ProvisionError(str(error["message"]), hint=str(error["hint"] or "")))
    if LAST_WORD.is_wanted:
        LAST_WORD.say(outcome)
