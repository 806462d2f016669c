"""``provision stop``: end a run on its instance."""

from __future__ import annotations

import sys
from typing import Any

import click

from .options import configure_logging, connection_options, instance_of, workspace_of


@click.command("stop")
@click.argument("run", required=False)
@connection_options
@click.option("--workspace", metavar="PATH", help="The folder on the instance, if it has several.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as a JSON line on stdout.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *, run: str | None, connection: dict[str, Any], workspace: str | None, as_json: bool, verbose: bool
) -> None:
    """End RUN, or with --host the current run of an instance. Partial downloads stay for the next one.

    Exit code 0 when it is ended (or was before); every watcher of the run ends with `cancelled` (130).
    """
    configure_logging(verbose)
    import asyncio

    from ..instance.query import ask
    from .watch import print_outcome

    instance = instance_of(connection, run)
    folder = workspace or workspace_of(run, instance)
    answer = asyncio.run(ask(instance, "stop", {"run": run, "workspace": folder}))
    name = run or answer.get("run") or "the run"
    if as_json:
        print_outcome(
            {
                "run": name,
                "host": str(instance),
                "verdict": answer.get("verdict"),
                "stopped": answer["stopped"],
            }
        )
    elif answer["stopped"]:
        print(f"run {name} is stopped ({answer.get('verdict')}); what it downloaded is kept")
    elif answer.get("verdict"):
        print(f"run {name} had ended before ({answer['verdict']})")
    else:
        print(f"no such run is going on {instance}")
    sys.exit(0 if answer["stopped"] or answer.get("verdict") else 2)
