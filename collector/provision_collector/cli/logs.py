"""``provision logs``: print a local mirror; -f follows it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

POLL_S = 0.1
CHUNK_BYTES = 1 << 16


@click.command("logs")
@click.argument("run", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on as the mirror grows, until the run ends.")
@click.option("--errors", "wants_errors", is_flag=True, help="The error log instead of the core log.")
@click.option("--events", "wants_events", is_flag=True, help="The events instead of the core log.")
@click.option("--json", "as_json", is_flag=True, help="The same as --events.")
def command(*, run: str | None, follow: bool, wants_errors: bool, wants_events: bool, as_json: bool) -> None:
    """Print the mirror of RUN's core log (of the newest run when left out).

    To a pipe or file go the raw bytes; to a terminal the text, with control characters made harmless.
    """
    from .. import registry
    from ..errors import UsageError

    records = [registry.known(run)] if run else registry.all_runs()[:1]
    if not records:
        raise UsageError("no run is known here", hint="`provision up` makes one")
    files = records[0].files
    path = files.errors if wants_errors else files.events if wants_events or as_json else files.core
    if not path.exists():
        raise UsageError(f"`{path}` is not there", hint=f"`provision attach {records[0].run}` fetches it")
    _print(path, records[0].run, follow=follow)


def _print(path: Path, run: str, *, follow: bool) -> None:
    is_terminal = sys.stdout.isatty()
    carry = b""
    with path.open("rb") as file:
        while True:
            is_over = not follow or _is_over(
                run
            )  # asked before reading: what was written before the end is printed
            while chunk := file.read(CHUNK_BYTES):
                if not is_terminal:
                    _write_all(chunk)
                    continue
                whole, newline, carry = (carry + chunk).rpartition(b"\n")
                _show(whole + newline)
            if is_over:
                _show(carry)
                return
            time.sleep(POLL_S)


def _is_over(run: str) -> bool:
    from .. import registry

    record = registry.find(run)
    return record is None or record.verdict is not None


def _show(data: bytes) -> None:
    from ..console import harmless

    for line in data.decode("utf-8", "replace").splitlines():
        click.echo(harmless(line, keep="\t"))


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
