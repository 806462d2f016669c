"""Ask a command of the caller's whether an instance still exists, and stop watching one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog
from provision_agent.contract.verdicts import exit_code

from .local_command import argv_of, execute, facts_of

if TYPE_CHECKING:
    from ..run.run import Run

ASK_EVERY_S = 5.0
ANSWER_WITHIN_S = 30.0

log = structlog.get_logger()


def gone_check(command: str | None) -> tuple[str, ...] | None:
    """The words of a `--gone-check`, if there is one. Raises UsageError when it cannot be read as a command."""
    return tuple(argv_of("--gone-check", command)) if command is not None else None


async def is_gone(command: Sequence[str], facts: Mapping[str, str]) -> bool:
    """Ask a command whether an instance does not exist any more.

    Args:
        command: Its words; exit status 0 says that the instance is gone, 1 that it exists.
        facts: Its environment, made by `local_command.facts_of`.

    Returns:
        True when it says so; a command that cannot run, or takes too long, says nothing.
    """
    code = await execute(command, facts, b"", timeout_s=ANSWER_WITHIN_S)
    if code not in (0, 1):
        log.warning("gone_check_failed", exit_status=code, command=command[0])
    return code == 0


async def leave_when_gone(
    run: Run,
    command: Sequence[str],
    *,
    every_s: float = ASK_EVERY_S,
) -> None:
    """While *run* has no contact, ask whether its instance still exists; end the watching when it does not.

    Args:
        run: A run that is being watched.
        command: The words of the command that is asked, as of `is_gone`.
        every_s: Seconds between two questions.
    """
    while True:
        await asyncio.sleep(every_s)
        facts = facts_of(run.id, str(run.instance), run.instance.instance_id, run.labels)
        if not run.has_contact and await is_gone(command, facts):
            await run.leave("instance-gone", exit_code("instance-gone"))
            return
