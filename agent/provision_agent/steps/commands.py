"""Small text files and single commands of a plan."""

from __future__ import annotations

import os
import time
from typing import Optional

from ..contract.failures import Failure, disk_failure
from ..contract.plan import Command, File
from ..host import process
from ..run.context import Context
from ..run.state import write_atomically


def write_file(file: File, context: Context) -> None:
    """Write *file* as one step; its folder is made when it is not there.

    Raises:
        Failure: `disk_full` or `read_only`.
    """
    path = os.path.join(context.workspace, file.path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomically(path, file.content.encode(), mode=int(file.mode, 8))
        os.chmod(path, int(file.mode, 8))
    except OSError as error:
        raise disk_failure(error, path) from None
    context.report("file_written", item=file.path, level=file.level)


def run_command(command: Command, context: Context, python: Optional[str]) -> None:
    """Run *command* to its end; only the secrets that it names are in its environment.

    Raises:
        Failure: `unauthorized` without a named secret, `command` for another status than 0, `timed_out`.
    """
    missing = [name for name in command.secrets if name not in context.secrets]
    if missing:
        raise Failure("unauthorized", f"needs {', '.join(missing)}, which is not set")
    environment = process.child_environment(command.environment)
    environment.update((name, context.secrets[name]) for name in command.secrets)
    if python is not None:
        environment["PATH"] = os.path.dirname(python) + os.pathsep + environment.get("PATH", os.defpath)
    context.report("command_started", item=command.name, level=command.level)
    started = time.monotonic()
    finished = process.run(
        with_python(command.run, python),
        timeout_s=context.bounded(command.timeout_s),
        directory=os.path.join(context.workspace, command.directory),
        environment=environment,
        on_line=context.output,
        cancelled=context.cancelled,
    )
    if finished.status != 0:
        raise Failure(
            "command",
            f"`{command.run[0]}` ended with status {finished.status}: {' | '.join(finished.tail[-5:])}",
        )
    context.report(
        "command_finished",
        item=command.name,
        level=command.level,
        duration_s=round(time.monotonic() - started, 3),
    )


def with_python(argv: "tuple[str, ...]", python: Optional[str]) -> "list[str]":
    """*argv* with a leading ``python`` or ``python3`` replaced by the environment's, if there is one."""
    if python is not None and argv[0] in ("python", "python3"):
        return [python, *argv[1:]]
    return list(argv)
