"""``provision logs``: print a local mirror; -f follows it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from . import completing
from .options import Connection, configure_logging, connection_options, instance_of, workspace_option
from .output import say, say_bytes, tell

if TYPE_CHECKING:
    from ..instance import Instance
    from ..run.registry import RunFiles, RunRecord

Begin = Callable[[Path], int]
"""Where to begin to print the file at a path, in bytes."""
POLL_S = 0.1
CHUNK_BYTES = 1 << 16


@click.command("logs")
@click.argument("run", shell_complete=completing.runs, required=False)
@connection_options
@workspace_option
@click.option("--logs-dir", default="logs", show_default=True, metavar="DIR", help="Where new mirrors go.")
@click.option("--lines", "-n", "last", type=click.IntRange(0), metavar="N", help="The last N lines only.")
@click.option(
    "--since",
    metavar="TIME",
    help="Only what was written since: `10m` ago, `03:20` today, `2026-11-26T03:20`; by the instance's clock.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on as the mirror grows, until the run ends.")
@click.option("--errors", "wants_errors", is_flag=True, help="The run's part of the error log.")
@click.option("--events", "wants_events", is_flag=True, help="The events instead of the core log.")
@click.option("--job", metavar="NAME", help="The log of this job instead of the core log.")
@click.option("--json", "as_json", is_flag=True, help="The same as --events.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    run: str | None,
    connection: Connection,
    workspace: str | None,
    logs_dir: str,
    last: int | None,
    since: str | None,
    follow: bool,
    wants_errors: bool,
    wants_events: bool,
    job: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Print the mirror of RUN's core log (of the newest run known here when left out).

    While the run goes on the mirror is brought up to date first, if its instance answers within 3 seconds. With --host
    RUN is the current run of that instance when left out. To a pipe or file go the raw bytes; to a terminal the text,
    with control characters made harmless. With -n and --since together what both let through is printed.
    """
    configure_logging(verbose)
    from ..errors import UsageError
    from ..run import registry

    begin = begin_at(last, since)

    def wanted(files: RunFiles) -> Path:
        if job is not None:
            return files.job(job)
        return files.errors if wants_errors else files.events if wants_events or as_json else files.core

    if connection["host"]:
        instance = instance_of(connection)
        places = _Places(wanted, begin, is_of_errors=wants_errors)
        asyncio.run(_print_from(instance, run, workspace, logs_dir, places, follow=follow))
        return
    records = [registry.known(run)] if run else registry.all_runs()[:1]
    if not records:
        raise UsageError("no run is known here", hint="`provision up` makes one; or give `--host`")
    record = records[0]
    name, path = record.run, wanted(record.files)
    if wants_errors:
        begin = of_run(begin, record.files)
    if record.verdict is None and _is_left_alone(record.files):
        code = asyncio.run(_print_going(record, path, begin, follow=follow))
        if path.exists():
            sys.exit(code)
    if not path.exists():
        raise UsageError(f"`{path}` is not there", hint=f"`provision attach {name}` fetches it")
    if wants_errors and last is None and since is None and 0 < path.stat().st_size == begin(path):
        tell(f"provision: run `{name}` has no failures; those in `{path}` are of other runs")
    print_file(path, begin, is_over=lambda: not follow or _is_over(record))


class _Places(NamedTuple):
    """Which mirror of a run is printed, and from where."""

    wanted: Callable[[RunFiles], Path]
    begin: Begin
    is_of_errors: bool

    def of(self, files: RunFiles) -> tuple[Path, Begin]:
        """The same of the run with these *files*."""
        return self.wanted(files), of_run(self.begin, files) if self.is_of_errors else self.begin


async def _print_from(
    instance: Instance,
    run_id: str | None,
    workspace: str | None,
    logs_dir: str,
    places: _Places,
    *,
    follow: bool,
) -> None:
    """Feed the mirrors of a run on *instance* and print one of them: as far as it is now, or with *follow* to its end."""
    from ..pool.begin import attach
    from .watch import say_errors

    async with await attach(
        instance, run_id=run_id, workspace=workspace, logs_dir=logs_dir, only_looks=True
    ) as run:
        await run.started()
        if not run.is_started:
            outcome = await run.outcome()
            say_errors(outcome)
            sys.exit(outcome["exit_code"])
        if not follow:
            await run.caught_up()
        assert run.files is not None
        for warning in run.warnings:
            tell(f"provision: warning: {warning}")
        path, begin = places.of(run.files)
        end = asyncio.create_task(run.outcome())
        await asyncio.to_thread(print_file, path, begin, is_over=lambda: not follow or end.done())
        end.cancel()


async def _print_going(record: RunRecord, path: Path, begin: Begin, *, follow: bool) -> int:
    """Feed the mirrors of a run that goes on and that nobody here watches, and print the one at *path*.

    Where the instance does not answer soon, what is here is printed, with its age; with *follow* it is tried on.

    Returns:
        The exit code: 0, or with *follow* that of what keeps the run out of reach.
    """
    from ..run.news import ASK_WITHIN_S
    from ..run.start import attach
    from .watch import say_errors

    async with await attach(
        record.to_instance(),
        run_id=record.run,
        workspace=record.workspace or None,
        logs_dir=Path(record.stem).parent,
        only_looks=True,
    ) as run:
        end = asyncio.create_task(run.outcome())
        is_new = await _within(run.started if follow else run.caught_up, ASK_WITHIN_S)
        if not is_new or not run.is_started:
            _say_age(record, is_tried_on=follow and not end.done())
        await asyncio.to_thread(print_file, path, begin, is_over=lambda: not follow or end.done())
        if not follow:
            end.cancel()
            return 0
        outcome = await end
        if outcome["errors"] and run.state.verdict is None:  # the watching failed, not the run
            say_errors(outcome)
            return int(outcome["exit_code"])
        return 0


def _is_left_alone(files: RunFiles) -> bool:
    """Nobody here watches the run, and its mirrors can go on."""
    from ..errors import ProvisionError
    from ..run.watcher import is_fed

    try:
        return files.core.parent.is_dir() and not is_fed(files)
    except ProvisionError:
        return False  # one was edited: it is shown as it is


async def _within(wait: Callable[[], Awaitable[None]], within_s: float) -> bool:
    """Whether *wait* ended in time."""
    try:
        async with asyncio.timeout(within_s):
            await wait()
    except TimeoutError:
        return False
    return True


def _say_age(record: RunRecord, *, is_tried_on: bool) -> None:
    from ..console.units import coarse
    from ..run.news import age_s

    tried = "; it is tried on" if is_tried_on else ""
    tell(
        f"provision: {record.to_instance()} does not answer: this is what is known of `{record.run}` here, "
        f"{coarse(age_s(record))} old{tried}\n  next: `provision attach {record.run}` goes on trying to reach it"
    )


def begin_at(last: int | None, since: str | None = None) -> Begin:
    """Where to begin to print, of a file that is there."""
    from .log_places import place_of_last, place_of_time, time_of

    try:
        time_ = None if since is None else time_of(since, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from None

    def begin(path: Path) -> int:
        at = 0 if time_ is None else place_of_time(path, time_)
        return at if last is None else max(at, place_of_last(path, last))

    return begin


def of_run(begin: Begin, files: RunFiles) -> Begin:
    """As *begin*, and not before the run with these *files* began: the error log of a workspace has those of all its runs."""
    from .log_places import place_of_time, started_in

    def begin_of_run(path: Path) -> int:
        started = started_in(files.events)
        return begin(path) if started is None else max(begin(path), place_of_time(path, started))

    return begin_of_run


def print_file(path: Path, begin: Begin, *, is_over: Callable[[], bool]) -> None:
    """Print the file at *path* from where *begin* says, and what is written to it until *is_over*."""
    is_terminal = sys.stdout.isatty()
    carry = b""
    while not path.exists():
        if is_over():
            return
        time.sleep(POLL_S)
    with path.open("rb") as file:
        file.seek(begin(path))
        while True:
            is_last = is_over()  # asked before reading: what was written before the end is printed
            while chunk := file.read(CHUNK_BYTES):
                if not is_terminal:
                    say_bytes(chunk)
                    continue
                whole, newline, carry = (carry + chunk).rpartition(b"\n")
                _show(whole + newline)
            if is_last:
                _show(carry)
                return
            time.sleep(POLL_S)


def _is_over(record: RunRecord) -> bool:
    from ..run import registry

    now = registry.find(record.run, record.to_instance())
    return now is None or now.verdict is not None


def _show(data: bytes) -> None:
    for line in data.decode("utf-8", "replace").splitlines():
        say(line)
