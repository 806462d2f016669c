"""``provision logs``: print a local mirror; -f follows it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from .options import Connection, configure_logging, connection_options, instance_of

if TYPE_CHECKING:
    from pathlib import Path

    from ..instance import Instance
    from ..run.registry import RunFiles, RunRecord

POLL_S = 0.1
CHUNK_BYTES = 1 << 16


@click.command("logs")
@click.argument("run", required=False)
@connection_options
@click.option("--workspace", metavar="PATH", help="The folder on the instance, if it has several.")
@click.option("--logs-dir", default="logs", show_default=True, metavar="DIR", help="Where new mirrors go.")
@click.option("--follow", "-f", is_flag=True, help="Go on as the mirror grows, until the run ends.")
@click.option("--errors", "wants_errors", is_flag=True, help="The error log instead of the core log.")
@click.option("--events", "wants_events", is_flag=True, help="The events instead of the core log.")
@click.option("--json", "as_json", is_flag=True, help="The same as --events.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    run: str | None,
    connection: Connection,
    workspace: str | None,
    logs_dir: str,
    follow: bool,
    wants_errors: bool,
    wants_events: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Print the mirror of RUN's core log (of the newest run known here when left out).

    With --host the mirror is brought up to date first, RUN being the current run there when left out. To a pipe or
    file go the raw bytes; to a terminal the text, with control characters made harmless.
    """
    configure_logging(verbose)
    from ..errors import UsageError
    from ..run import registry

    def wanted(files: RunFiles) -> Path:
        return files.errors if wants_errors else files.events if wants_events or as_json else files.core

    if connection["host"]:
        instance = instance_of(connection)
        asyncio.run(_print_from(instance, run, workspace, logs_dir, wanted, follow=follow))
        return
    records = [registry.known(run)] if run else registry.all_runs()[:1]
    if not records:
        raise UsageError("no run is known here", hint="`provision up` makes one; or give `--host`")
    record = records[0]
    name, path = record.run, wanted(record.files)
    if not path.exists():
        raise UsageError(f"`{path}` is not there", hint=f"`provision attach {name}` fetches it")
    _print(path, is_over=lambda: not follow or _is_over(record))


async def _print_from(
    instance: Instance,
    run_id: str | None,
    workspace: str | None,
    logs_dir: str,
    wanted: Callable[[RunFiles], Path],
    *,
    follow: bool,
) -> None:
    """Feed the mirrors of a run on *instance* and print one of them: as far as it is now, or with *follow* to its end."""
    from ..pool.begin import attach
    from .watch import say_errors

    async with await attach(instance, run_id=run_id, workspace=workspace, logs_dir=logs_dir) as run:
        await run.started()
        if not run.is_started:
            outcome = await run.outcome()
            say_errors(outcome)
            sys.exit(outcome["exit_code"])
        if not follow:
            await run.caught_up()
        assert run.files is not None
        for warning in run.warnings:
            print(f"provision: warning: {warning}", file=sys.stderr)
        path, end = wanted(run.files), asyncio.create_task(run.outcome())
        await asyncio.to_thread(_print, path, is_over=lambda: not follow or end.done())
        end.cancel()


def _print(path: Path, *, is_over: Callable[[], bool]) -> None:
    is_terminal = sys.stdout.isatty()
    carry = b""
    while not path.exists():
        if is_over():
            return
        time.sleep(POLL_S)
    with path.open("rb") as file:
        while True:
            is_last = is_over()  # asked before reading: what was written before the end is printed
            while chunk := file.read(CHUNK_BYTES):
                if not is_terminal:
                    _write_all(chunk)
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
    from ..console import harmless

    for line in data.decode("utf-8", "replace").splitlines():
        click.echo(harmless(line, keep="\t"))


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
