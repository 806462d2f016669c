"""``provision explain``: how a run went, or one of its files, packages or services, from its events."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import completing
from .options import configure_logging
from .output import say, tell

if TYPE_CHECKING:
    from ..console.story import Story
    from ..run.registry import RunRecord


_OF_HERE = "`provision status` lists the runs that are known here; ITEM alone is one of the newest run"


@click.command("explain")
@click.argument("run", required=False, shell_complete=completing.runs)
@click.argument("item", required=False)
@click.option("--html", "page", metavar="FILE", help="Write the whole run as one HTML page to FILE instead.")
def command(*, run: str | None, item: str | None, page: str | None) -> None:
    """Say where the time of RUN went (of the newest run known here when left out), or tell the story of one ITEM.

    What `usable` waited for comes first, one after the other; then the steps, what took longest, and what made items wait.
    ITEM is a file, a package, a repository, a check or a service, by its name or a part of it: its attempts, sources,
    speeds and waits. All of it comes from the mirror of the events: the instance is not asked.
    """
    configure_logging(False)
    from ..console.explained import item_lines, run_lines
    from ..console.explained_page import html_page
    from ..errors import UsageError
    from ..run import registry
    from ..storage import write_atomically

    newest = [] if run and _is_run(run) else registry.all_runs()[:1]
    if run and item is None and newest and newest[0].files.events.exists() and _story(newest[0]).of(run):
        run, item = None, run
    records = [registry.known(run, hint=_OF_HERE)] if run else newest
    if not records:
        raise UsageError("no run is known here", hint="`provision up` makes one")
    record = records[0]
    story, host = _story(record), str(record.to_instance())
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else 100
    if page is not None:
        write_atomically(Path(page), html_page(story, host))
        tell(f"`{page}` shows run {record.run}: open it in a browser")
        return
    spans = story.of(item) if item is not None else []
    if item is not None and not spans:
        raise UsageError(
            f"run `{record.run}` has no item `{item}`",
            hint=f"`provision status {record.run}` lists its items",
        )
    for number, span in enumerate(spans):
        if number:
            say()
        for line in item_lines(span, width):
            say(line)
    if item is None:
        for line in run_lines(story, width):
            say(line)


def _is_run(word: str) -> bool:
    from ..errors import UsageError
    from ..run import registry

    try:
        return registry.find(word) is not None
    except UsageError:  # it has a `/`, say
        return False


def _story(record: RunRecord) -> Story:
    from ..console.story import story_of
    from ..errors import UsageError
    from ..run.events import events_of

    if not record.files.events.exists():
        raise UsageError(
            f"`{record.files.events}` is not there", hint=f"`provision attach {record.run}` fetches it"
        )
    return story_of(record.run, str(record.to_instance()), events_of(record.files.events))
