"""A command that the caller gave, run on this machine: an argv and no shell, facts in its environment, bounded in time.

It never gets a secret of this tool.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog

from ..errors import UsageError

WEBHOOK_SECRET = "PROVISION_WEBHOOK_SECRET"  # noqa: S105 - a name
SERVER_TOKEN = "PROVISION_TOKEN"  # noqa: S105 - a name

log = structlog.get_logger()


def argv_of(option: str, command: str) -> list[str]:
    """The words of *command*, which was given as *option*. Raises UsageError when it cannot be read as one."""
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"`{option}`: {error} in `{command}`") from None
    if not argv:
        raise UsageError(f"`{option}` is empty", hint="give a command or a URL")
    return argv


def facts_of(run: str, host: str, instance_id: str | None, labels: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that tell a command which run it is about.

    Args:
        run: The run's id.
        host: The instance, as people address it.
        instance_id: Its id at the provider; None: it was given none.
        labels: Each becomes ``PROVISION_LABEL_NAME``.
    """
    named = {f"PROVISION_LABEL_{_variable(name)}": value for name, value in labels.items()}
    return {"PROVISION_RUN": run, "PROVISION_HOST": host, "PROVISION_INSTANCE_ID": instance_id or "", **named}


async def execute(
    argv: Sequence[str], facts: Mapping[str, str], stdin: bytes, *, timeout_s: float
) -> int | None:
    """Run a command to its end, in a process group of its own; it gets neither our token nor the secret that signs webhooks.

    Args:
        argv: Program and arguments; no shell reads them.
        facts: More environment variables.
        stdin: All that it can read.
        timeout_s: After so many seconds it is killed, with all that it started.

    Returns:
        The exit status; None when it did not end in time, 127 when it could not be started.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in (WEBHOOK_SECRET, SERVER_TOKEN)}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env={**inherited, **{name: value.replace("\0", "") for name, value in facts.items()}},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        log.warning("command_not_started", command=argv[0], why=error.strerror)
        return 127
    try:
        async with asyncio.timeout(timeout_s):
            await process.communicate(stdin)
        return process.returncode
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()


def _variable(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name).upper()
