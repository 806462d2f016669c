"""``provision stop``: end a run on its instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from provision_agent.contract.messages import StopAnswer, StopRequest

from ..errors import ProvisionError, UsageError
from . import completing
from .last_word import LAST_WORD
from .options import (
    Connection,
    configure_logging,
    connection_options,
    instance_of,
    workspace_of,
    workspace_option,
)
from .output import say

if TYPE_CHECKING:
    from ..instance import Instance


@click.command("stop")
@click.argument("run", shell_complete=completing.runs, required=False)
@connection_options
@workspace_option
@click.option("--json", "as_json", is_flag=True, help="The outcome as a JSON line on stdout.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *, run: str | None, connection: Connection, workspace: str | None, as_json: bool, verbose: bool
) -> None:
    """End RUN, or with --host the current run of an instance. Partial downloads stay for the next one.

    Exit code 0 when it is ended, or was before; a run that is not there is an error. Every watcher of a run that is
    stopped ends with `cancelled` (130).
    """
    configure_logging(verbose)
    import asyncio

    from ..console import harmless
    from ..run import registry

    instance = instance_of(connection, run)
    record = registry.find(run) if run and connection["host"] is None else None
    if record is not None and record.verdict is not None and record.is_named_here:
        answer = StopAnswer(False, run, record.verdict)
    else:
        answer = asyncio.run(_ask(instance, run, workspace or workspace_of(run, instance)))
    if answer.run is None and answer.verdict is None:
        wanted = f"no run `{run}`" if run else "no run"
        raise UsageError(
            f"there is {wanted} on {instance}",
            hint=f"`provision status {instance.options}` lists those that it has",
        )
    name = str(answer.run or run or "the run")
    there = f"{name} {instance.options}" if connection["host"] else name
    if not answer.stopped and answer.verdict is None:
        raise ProvisionError(
            f"run `{name}` on {instance} did not end in time",
            hint=f"look whether it goes on: `provision status {there}`",
        )
    if as_json:
        facts = {"verdict": answer.verdict, "stopped": answer.stopped, "exit_code": 0, "next": "none"}
        LAST_WORD.say({"run": name, "host": str(instance), **facts})
    elif answer.stopped:
        say(harmless(f"run {name} is stopped ({answer.verdict}); what it downloaded is kept"))
    else:
        say(harmless(f"run {name} had ended before ({answer.verdict})"))


async def _ask(instance: Instance, run: str | None, folder: str | None) -> StopAnswer:
    from ..instance import as_answer
    from ..instance.query import ask

    request = StopRequest(run=run, workspace=folder)
    return await ask(instance, "stop", request, as_answer(StopAnswer), workspace=folder)
