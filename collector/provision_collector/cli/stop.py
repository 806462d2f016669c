"""``provision stop``: end a run on its instance."""

from __future__ import annotations

import sys

import click

from .options import Connection, configure_logging, connection_options, instance_of, workspace_of


@click.command("stop")
@click.argument("run", required=False)
@connection_options
@click.option("--workspace", metavar="PATH", help="The folder on the instance, if it has several.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as a JSON line on stdout.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *, run: str | None, connection: Connection, workspace: str | None, as_json: bool, verbose: bool
) -> None:
    """End RUN, or with --host the current run of an instance. Partial downloads stay for the next one.

    Exit code 0 when it is ended (or was before); every watcher of the run ends with `cancelled` (130).
    """
    configure_logging(verbose)
    import asyncio

    from provision_agent.contract.messages import StopAnswer, StopRequest

    from ..instance import as_answer
    from ..instance.query import ask
    from .watch import print_outcome

    instance = instance_of(connection, run)
    folder = workspace or workspace_of(run, instance)
    request = StopRequest(run=run, workspace=folder)
    answer = asyncio.run(ask(instance, "stop", request, as_answer(StopAnswer), workspace=folder))
    name = run or answer.run or "the run"
    if as_json:
        print_outcome(
            {
                "run": name,
                "host": str(instance),
                "verdict": answer.verdict,
                "stopped": answer.stopped,
            }
        )
    elif answer.stopped:
        print(f"run {name} is stopped ({answer.verdict}); what it downloaded is kept")
    elif answer.verdict:
        print(f"run {name} had ended before ({answer.verdict})")
    else:
        print(f"no such run is going on {instance}")
    sys.exit(0 if answer.stopped or answer.verdict else 2)
