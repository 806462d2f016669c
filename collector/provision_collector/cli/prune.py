"""``provision prune``: old runs, mirrors and unused agents, here or with --host there."""

from __future__ import annotations

import time

import click

from .options import Connection, configure_logging, connection_options, duration, instance_of
from .output import say, say_json


@click.command("prune")
@connection_options
@click.option("--keep", type=click.IntRange(0), default=10, show_default=True, help="The newest runs stay.")
@click.option("--older-than", "older_than_s", type=duration, help="Only runs that are older, such as `72h`.")
@click.option("--json", "as_json", is_flag=True, help="What was removed, as JSON.")
def command(*, connection: Connection, keep: int, older_than_s: float | None, as_json: bool) -> None:
    """Remove old runs with their mirrors from this machine, or with --host their records from the instance.

    Downloaded files, environments and services are never touched; nor is a run that is going.
    """
    configure_logging(False)
    removed = _there(connection, keep, older_than_s) if connection["host"] else _here(keep, older_than_s)
    if as_json:
        say_json(removed)
    else:
        say(f"{len(removed['removed'])} run(s) removed")


def _there(connection: Connection, keep: int, older_than_s: float | None) -> dict[str, list[str]]:
    import asyncio

    from provision_agent.contract.messages import PruneAnswer, PruneRequest

    from ..instance import as_answer
    from ..instance.query import ask

    request = PruneRequest(keep=keep, older_than_s=older_than_s)
    answer = asyncio.run(ask(instance_of(connection), "prune", request, as_answer(PruneAnswer)))
    return {"removed": list(answer.removed), "agents": list(answer.agents)}


def _here(keep: int, older_than_s: float | None) -> dict[str, list[str]]:
    from ..run import registry

    limit = None if older_than_s is None else time.time() - older_than_s
    removed = []
    for record in registry.all_runs()[keep:]:
        if record.verdict is None or (limit is not None and record.started_unix > limit):
            continue
        for path in record.files.all():
            path.unlink(missing_ok=True)
        registry.forget(record)
        removed.append(record.run)
    return {"removed": removed}
