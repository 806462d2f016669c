"""``provision prune``: old runs, mirrors and unused agents, here or with --host there."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import completing
from .options import Connection, configure_logging, connection_options, duration, instance_of
from .output import say, say_json

if TYPE_CHECKING:
    from ..run.registry import RunRecord


@click.command("prune")
@click.argument("runs", nargs=-1, metavar="[RUN]…", shell_complete=completing.runs)
@connection_options
@click.option("--keep", type=click.IntRange(0), default=10, show_default=True, help="The newest runs stay.")
@click.option("--older-than", "older_than_s", type=duration, help="Only runs that are older, such as `72h`.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--yes", "-y", "is_agreed", is_flag=True, help="Do not ask on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="What was removed, as JSON.")
def command(
    *,
    runs: tuple[str, ...],
    connection: Connection,
    keep: int,
    older_than_s: float | None,
    dry_run: bool,
    is_agreed: bool,
    as_json: bool,
) -> None:
    """Remove old runs with their mirrors from this machine, or with --host their records from the instance.

    On a terminal it lists them and asks first. Downloaded files, environments and services are never touched; nor is a
    run that is going. A RUN that is named is forgotten here even if its end was never seen, for an instance that is gone.
    """
    from ..console.units import counted

    configure_logging(False)
    if runs and connection["host"]:
        raise UsageError(
            "runs are named for this machine, `--host` is for an instance", hint="give one of them"
        )

    def remove(*, only_tell: bool) -> dict[str, list[str]]:
        if runs:
            return _named(runs, only_tell=only_tell)
        if connection["host"]:
            return _there(connection, keep, older_than_s, only_tell=only_tell)
        return _here(keep, older_than_s, only_tell=only_tell)

    older = ", and what is younger than `--older-than`" if older_than_s is not None else ""
    why_none = f" (`--keep {keep}`: the newest {keep} stay{older}; those that go on stay, too)"
    asks = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and not (is_agreed or as_json)
    if dry_run or asks:
        found = remove(only_tell=True)
        if as_json:
            say_json({"dry_run": True, **found})
            return
        for run in found["removed"]:
            say(f"run {run}")
        count = len(found["removed"])
        what = f"{counted(count, 'run')} would be removed, with {'its' if count == 1 else 'their'} records and mirrors"
        say(what if count else f"no run would be removed{why_none}")
        if dry_run or not any(found.values()):
            return
        click.confirm("Remove them?", abort=True)
    removed = remove(only_tell=False)
    if as_json:
        say_json(removed)
    else:
        for run in () if asks else removed["removed"]:
            say(f"run {run}")
        count = len(removed["removed"])
        say(f"{counted(count, 'run')} removed" if count else f"no run is removed{why_none}")


def _there(
    connection: Connection, keep: int, older_than_s: float | None, *, only_tell: bool
) -> dict[str, list[str]]:
    """Remove the old runs of an instance, or *only_tell* which; their ids, and the agents that no process runs by."""
    import asyncio

    from provision_agent.contract.messages import PruneAnswer, PruneRequest

    from ..instance import as_answer
    from ..instance.query import ask

    request = PruneRequest(keep=keep, older_than_s=older_than_s, only_tell=only_tell)
    answer = asyncio.run(ask(instance_of(connection), "prune", request, as_answer(PruneAnswer)))
    return {"removed": list(answer.removed), "agents": list(answer.agents)}


def _here(keep: int, older_than_s: float | None, *, only_tell: bool) -> dict[str, list[str]]:
    """Remove the old runs that this machine knows with their mirrors, or *only_tell* which; their ids."""
    from ..run import registry

    limit = None if older_than_s is None else time.time() - older_than_s
    over = [record for record in registry.all_runs()[keep:] if record.verdict is not None]
    old = [record for record in over if limit is None or record.started_unix <= limit]
    return _forget(old, only_tell=only_tell)


def _named(runs: Sequence[str], *, only_tell: bool) -> dict[str, list[str]]:
    """The same of the runs with these ids. Raises `UsageError` for one that is not known."""
    from ..run import registry

    return _forget([registry.known(run) for run in dict.fromkeys(runs)], only_tell=only_tell)


def _forget(records: list[RunRecord], *, only_tell: bool) -> dict[str, list[str]]:
    from ..run import registry

    for record in () if only_tell else records:
        for path in record.files.all():
            path.unlink(missing_ok=True)
        registry.forget(record)
    return {"removed": [record.run for record in records]}
