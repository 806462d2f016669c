"""Single commands of a plan, each run to its end."""

from __future__ import annotations

import os
from typing import Dict, Optional, Sequence

from ..contract.failures import Failure
from ..contract.plan import Command
from ..host import process
from ..run.context import Context
from .python.venv import Venv


def do(command: Command, context: Context, venv: Optional[Venv]) -> None:
    """Run *command* to its end; only the secrets that it names are in its environment.

    Args:
        command: Its ``python`` is the environment's, which is also the first on its PATH.
        context: Its folder is under the workspace.
        venv: The environment, if the plan has one.

    Raises:
        Failure: `unauthorized` without a named secret, `command` for another status than 0, `timed_out`.
    """
    secrets = secrets_of(command.secrets, context)
    python = None if venv is None else venv.python
    environment = process.child_environment({**command.environment, **secrets})
    if python is not None:
        environment["PATH"] = os.path.dirname(python) + os.pathsep + environment.get("PATH", os.defpath)
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
            f"`{command.run[0]}` ended with status {finished.status}: {finished.said(5)}",
        )


def secrets_of(names: Sequence[str], context: Context) -> Dict[str, str]:
    """The values of *names*. Raises Failure: `unauthorized` when one of them has none."""
    missing = [name for name in names if name not in context.secrets]
    if missing:
        shown = ", ".join(f"`{name}`" for name in missing)
        raise Failure(
            "unauthorized", f"needs {shown}, which is not set", case="secrets_unset", about={"names": shown}
        )
    return {name: context.secrets[name] for name in names}


def with_python(argv: "tuple[str, ...]", python: Optional[str]) -> "list[str]":
    """*argv* with a leading ``python`` or ``python3`` replaced by the environment's, if there is one."""
    if python is not None and argv[0] in ("python", "python3"):
        return [python, *argv[1:]]
    return list(argv)
