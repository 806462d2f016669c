"""``provision status``: one run or all runs known here; --host asks the instance itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click
from provision_agent.contract.version import FORMAT

from . import completing, status_output
from .options import Connection, configure_logging, connection_options, instance_of
from .output import say, say_json, tell
from .status_output import Shown

if TYPE_CHECKING:
    from ..instance import Instance
    from ..run.news import News
    from ..run.registry import RunRecord

FRESH_S = 5.0
"""What came so lately, in seconds, from a run that is followed here is not old, whether its instance answers or not."""
OLD_SHOWN = 5
"""Of so many runs it is said one by one that what is shown is old."""


@click.command("status")
@click.argument("run", required=False, shell_complete=completing.runs)
@connection_options
@click.option("--watch", "-w", "watches", is_flag=True, help="Show it anew every few seconds, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run and line.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(*, run: str | None, connection: Connection, watches: bool, as_json: bool, verbose: bool) -> None:
    """Show RUN with its steps, files, checks, services and errors, or a line for every run that this machine knows.

    With --host the runs of that instance. Of a run whose end this machine has not seen, its instance is asked, all of
    them at once and for 3 seconds at most; where it does not answer, what the mirrors say is shown, with its age. With
    --json each run comes with the `scorecard` of its instance, where there is one: see `provision hosts scores`.
    """
    configure_logging(verbose)

    def rows() -> list[dict[str, object]]:
        if connection["host"]:
            return _remote(connection, run, with_scores=as_json)
        return _local(run, with_scores=as_json)

    if watches:
        status_output.watch(rows, is_one=run is not None, as_json=as_json)
    elif as_json:
        for row in rows():
            say_json(row)
    else:
        found = rows()
        for line in status_output.lines_of(found, is_one=run is not None):
            say(line)
        if not found:
            tell("no runs are known; `provision up` makes one")
        _say_what_is_old(found)


def _remote(connection: Connection, run: str | None, *, with_scores: bool) -> list[dict[str, object]]:
    import asyncio

    from provision_agent.contract.messages import StatusRequest

    from ..errors import UsageError
    from ..instance.query import ask

    instance = instance_of(connection)
    runs = asyncio.run(ask(instance, "status", StatusRequest(run=run, all=run is None), _read_runs))
    if run is not None and not runs:
        raise UsageError(
            f"there is no run `{run}` on {instance}",
            hint=f"`provision status {instance.options}` lists its runs",
        )
    score = _score_of(instance) if with_scores else {}
    return [{**found, "host": str(instance), **score} for found in runs]


def _score_of(instance: Instance) -> dict[str, object]:
    from ..pool import scorecard

    return {"scorecard": scorecard.scorecard(scorecard.key_of(instance))}


def _read_runs(data: Mapping[str, object]) -> list[dict[str, object]]:
    """The runs in an answer to `status`. Raises ParseError when one of them is none."""
    from provision_agent.contract.messages import StatusAnswer, read_answer
    from provision_agent.contract.parsing import parse

    runs = read_answer(StatusAnswer, data).runs
    for found in runs:
        parse(Shown, found, "runs")
    return [_in_own_words(found) for found in runs]


def _in_own_words(found: Mapping[str, object]) -> dict[str, object]:
    """The run *found* with the advice that this side gives for its errors. Raises ParseError when they are none."""
    from provision_agent.contract.failures import hint_of
    from provision_agent.contract.parsing import parse
    from provision_agent.contract.status_json import ErrorTold

    errors = found.get("errors")
    rows = [dict(error) for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    for row in rows:
        told = parse(ErrorTold, row, "errors")
        row["hint"] = hint_of(told.class_ or "bug", told.case, told.about)
    return {**found, "errors": rows, "files": found.get("text_files") or {}}


def _local(run: str | None, *, with_scores: bool) -> list[dict[str, object]]:
    import asyncio

    from ..run import registry
    from ..run.news import age_s, news_of

    records = [registry.known(run)] if run else registry.all_runs()
    rows = [_from_mirror(record) for record in records]
    asked = [
        (record, row)
        for record, row in zip(records, rows, strict=True)
        if row.get("verdict") is None or (run is not None and _ends_itself(record))
    ]
    for (record, row), news in zip(asked, asyncio.run(news_of([record for record, _ in asked])), strict=True):
        if row.get("verdict") is not None:
            row["lifetime"] = None if news.found is None else news.found.get("lifetime")
            continue
        why_not = _update(row, news)
        row["asked"] = not why_not
        if why_not:
            row.update(not_asked_because=why_not, age_s=round(age_s(record), 1))
    for record, row in zip(records, rows, strict=True) if with_scores else ():
        row.update(_score_of(record.to_instance()))
    return rows


def _ends_itself(record: RunRecord) -> bool:
    """Whether its instance knows more of an ended run than this machine: when it is ended by itself."""
    known = record.what_is_known()
    return known is not None and known.has_lifetime


def _update(row: dict[str, object], news: News) -> str:
    """Bring *row* up to date by what its instance says; returns why that could not be done, else ''."""
    from provision_agent.contract.parsing import ParseError
    from provision_agent.contract.status import RunState

    if news.found is None:
        return news.why_not
    try:
        [found] = _read_runs({"runs": [news.found], "format": FORMAT})
    except ParseError as error:
        return f"the instance says what cannot be understood: {error}"
    ours = {"run", "labels", "workspace", "name", *(("state",) if "broken" in row else ())}
    told = (set(RunState("").to_json()) | {"is_alive", "lifetime"}) - ours
    row.update({name: found[name] for name in told if name in found})
    return ""


def _is_followed(row: Mapping[str, object]) -> bool:
    """Another command of this machine follows the run, and what is shown has just come."""
    from ..run import registry
    from ..run.watcher import is_fed

    age = row["age_s"]
    return isinstance(age, float) and age < FRESH_S and is_fed(registry.known(str(row["run"])).files)


def _say_what_is_old(rows: list[dict[str, object]]) -> None:
    """Say on stderr of which runs only an older state is known, and what to type."""

    from ..console import harmless
    from ..console.units import coarse

    old = [row for row in rows if row.get("asked") is False and not _is_followed(row)]
    for row in old[:OLD_SHOWN]:
        why, age = harmless(str(row["not_asked_because"])), row["age_s"]
        shown = coarse(float(age)) if isinstance(age, (int, float)) else "unknown"
        tell(f"provision: `{row['run']}` is as it was {shown} ago: {why}")
    if len(old) > OLD_SHOWN:
        tell(f"provision: and {len(old) - OLD_SHOWN} more runs whose instances do not answer")
    if old:
        name = old[0]["run"]
        tell(
            f"  next: `provision attach {name}` goes on trying to reach it; `provision prune {name}` forgets it here"
        )


def _from_mirror(record: RunRecord) -> dict[str, object]:
    from provision_agent.contract.parsing import ParseError
    from provision_agent.contract.status import RunState

    from ..errors import ProvisionError
    from ..run.events import events_of, last_of

    state, broken = RunState(record.run), {}
    try:
        for event in events_of(record.files.events):
            state.fold(event)
    except (ProvisionError, ParseError) as error:  # the other runs are listed all the same
        broken = {"state": state.verdict or "broken", "broken": str(error)}
    facts: dict[str, object] = {
        "host": str(record.to_instance()),
        "profile": record.profile,
        "labels": record.labels,
    }
    logs = {
        "core": str(record.files.core),
        "errors": str(record.files.errors),
        "events": str(record.files.events),
    }
    home = last_of(record.files.collector, ("outputs_progress", "outputs_finished"))
    if home is not None:
        facts["outputs"] = {name: home[name] for name in ("files", "bytes", "left", "path") if name in home}
    return dict(
        state.to_json(),
        **broken,
        **facts,
        logs=logs,
        workspace=record.workspace,
        started_unix=record.started_unix,
    )
