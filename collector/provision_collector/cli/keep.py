"""``provision keep``: put off the end of an instance that ends itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from provision_agent.contract.lifetime_told import ExtendAnswer, ExtendRequest

from . import completing
from .options import (
    Connection,
    configure_logging,
    connection_options,
    duration,
    instance_of,
    workspace_of,
    workspace_option,
)
from .output import say, say_json

if TYPE_CHECKING:
    from ..instance import Instance


@click.command("keep")
@click.argument("run", shell_complete=completing.runs, required=False)
@connection_options
@click.option("--for", "for_s", type=duration, required=True, metavar="DURATION", help="For how long: `2h`.")
@workspace_option
@click.option("--json", "as_json", is_flag=True, help="When it is ended now, as a JSON line on stdout.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    run: str | None,
    connection: Connection,
    for_s: float,
    workspace: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Keep the instance of RUN, or with --host an instance, longer than the `lifetime` of its profile says.

    `max` comes so much later, and `idle` does not end it in that time. Where the hook that ends it is being run
    already, that is said, with exit code 1. `provision status RUN` says when an instance is ended.
    """
    configure_logging(verbose)
    import asyncio

    from ..console import harmless
    from ..console.lifetime import words_of

    instance = instance_of(connection, run)
    told = asyncio.run(_ask(instance, run, for_s, workspace or workspace_of(run, instance))).lifetime
    if as_json:
        from provision_agent.contract.parsing import to_json

        say_json({"run": told.run, "host": str(instance), "lifetime": to_json(told)})
    else:
        say(harmless(f"the end of {instance}: {words_of(told)}"))


async def _ask(instance: Instance, run: str | None, for_s: float, folder: str | None) -> ExtendAnswer:
    from ..instance import as_answer
    from ..instance.query import ask

    request = ExtendRequest(for_s, run, folder)
    return await ask(instance, "extend", request, as_answer(ExtendAnswer), workspace=folder)
