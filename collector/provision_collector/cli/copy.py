"""``provision copy``: files to an instance or from it, by hand."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import completing
from .options import Connection, configure_logging, connection_options, instance_of, newest_run, workspace_of
from .output import say_json, tell, ticker

if TYPE_CHECKING:
    from ..files.copied import Copied

TICK_S = 0.5


@click.command("copy")
@click.argument("paths", metavar="SRC… DST", nargs=-1, required=True)
@click.option("--run", metavar="RUN", shell_complete=completing.runs, help="The instance of this run.")
@connection_options
@click.option(
    "--workspace", metavar="PATH", help="What relative paths there are below; else the run's workspace."
)
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Of folders only files that match; repeatable."
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Of folders no files that match; `cache/` names folders.",
)
@click.option(
    "--follow",
    is_flag=True,
    help="Go on: fetch what is new there when nobody writes it any more, until Ctrl-C.",
)
@click.option("--json", "as_json", is_flag=True, help="What became of it as a JSON line on stdout.")
@click.option("--quiet", "-q", is_flag=True, help="Only what went wrong.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    paths: tuple[str, ...],
    run: str | None,
    connection: Connection,
    workspace: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    follow: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Copy SRC… to DST, one side of it on an instance: a path there begins with `:`.

    From an instance without --run and --host: that of the newest run. A relative path there is below the run's workspace. A folder goes with all that is in it, under its own name; with
    a `/` at its end what is in it. What is the same on both sides is not sent; a cut costs nothing that had arrived.
    Ends with 0, or 1 when something could not be copied.
    """
    configure_logging(verbose)
    import asyncio
    import gc

    from ..files.copied import Copied
    from ..files.copying import CopyOrder, copy, until, words_of

    if len(paths) < 2:
        raise UsageError(
            "`provision copy` takes what and where to", hint="provision copy --run RUN :output ./"
        )
    sources, target, is_to_instance = words_of(paths)
    if follow and is_to_instance:
        raise UsageError("`--follow` is for files that come here", hint="run the command again instead")
    run = run if is_to_instance else newest_run(connection, run)
    instance = instance_of(connection, run)
    folder = workspace or workspace_of(run, instance)
    order = CopyOrder(sources, target, is_to_instance, include, exclude, follow, run, folder)
    gc.freeze()  # each packet makes objects: what was imported is not looked through again and again for them
    copied = Copied()
    is_shown = sys.stderr.isatty() and not quiet and not verbose
    try:
        asyncio.run(
            until(copy(instance, order, copied), lambda: ticker(_line(copied)) if is_shown else None, TICK_S)
        )
    finally:
        if is_shown:
            ticker("")
    _say(copied, as_json=as_json, quiet=quiet)
    sys.exit(1 if copied.failed else 0)


def _line(copied: Copied) -> str:
    from ..console.units import counted, size

    there = f", {copied.there} there already" if copied.there else ""
    return f"{counted(copied.files, 'file')} copied, {size(copied.bytes)}{there}"


def _say(copied: Copied, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        failed = [
            {"path": path, "message": why.message, "next": why.next} for path, why in copied.failed.items()
        ]
        say_json({"files": copied.files, "there": copied.there, "bytes": copied.bytes, "failed": failed})
    elif not quiet:
        tell(_line(copied))
    for line in copied.lines():
        tell(f"provision: {line}")
    for hint in copied.hints():
        tell(f"  next: {hint}")
