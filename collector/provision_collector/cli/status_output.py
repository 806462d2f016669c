"""How `provision status` shows runs: a table that fits, or one run on a page; once, or again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provision_agent.contract.parsing import parse

from .output import draw, say, say_json, terminal_width

if TYPE_CHECKING:
    from ..console.runs import Row

EVERY_S = 2.0
"""Between two looks of `--watch`."""
Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Download:
    """What the table counts of a file."""

    state: str
    bytes: int | None = None


@dataclass(frozen=True)
class Shown:
    """What the table counts of a run, whoever tells of it."""

    run: str
    state: str
    errors: list[dict[str, object]]
    downloads: dict[str, Download] = field(default_factory=dict)


def lines_of(rows: Rows, *, is_one: bool) -> list[str]:
    """The lines that show *rows*, as wide as the terminal, or as it takes where stdout is none; none where there is none.

    Args:
        is_one: Each run on a page of its own.
    """
    from ..console.runs import runs_table

    width = terminal_width()
    if is_one:
        return [line for row in rows for line in _page(row, width)]
    return runs_table([_row(row) for row in rows], width) if rows else []


def watch(look: Callable[[], Rows], *, is_one: bool, as_json: bool) -> None:
    """Show what *look* finds anew every few seconds: in place on a terminal, else as often as it changes.

    Ends with Ctrl-C, and with the end of all that was asked for where that is one run.
    """
    shown: list[str] = []
    while True:
        rows = look()
        if as_json:
            for row in rows:
                say_json(row)
        else:
            lines = lines_of(rows, is_one=is_one) or ["no runs are known"]
            if sys.stdout.isatty():
                draw(lines)
            elif lines != shown:
                for line in lines:
                    say(line)
            shown = lines
        if is_one and all(row.get("verdict") is not None for row in rows):
            return
        time.sleep(EVERY_S)


def _row(row: Mapping[str, object]) -> Row:
    from ..console import harmless
    from ..console.runs import Row
    from ..console.units import size

    shown = parse(Shown, row, "runs")
    downloads = shown.downloads.values()
    settled = sum(1 for item in downloads if item.state in ("done", "skipped"))
    is_dead = not row.get("is_alive", True) and not row.get("verdict")
    landed = sum(item.bytes or 0 for item in downloads)
    cells = (
        shown.run,
        f"{row['state']} (dead)" if is_dead else str(row["state"]),
        str(row["host"]),
        str(row.get("profile") or row.get("name") or ""),
        _started(row),
        f"{settled}/{len(downloads)}" if downloads else "",
        size(landed) if landed else "",
        str(len(shown.errors) or ""),
    )
    return Row(*(harmless(cell) for cell in cells))


def _page(row: Mapping[str, object], width: int | None) -> list[str]:
    from provision_agent.contract.status import RunState

    from ..console.lifetime import ends_text
    from ..console.lines import outputs_line
    from ..console.run_page import Place, run_page
    from ..console.summary import fitted
    from ..console.units import coarse

    age, logs, outputs = row.get("age_s"), row.get("logs"), row.get("outputs")
    place = Place(
        host=str(row["host"]),
        profile=str(row.get("profile") or ""),
        workspace=str(row.get("workspace") or ""),
        started=_started(row),
        log=str(logs["core"]) if isinstance(logs, dict) else "",
        outputs=outputs_line(outputs).text if isinstance(outputs, dict) else "",
        ends=ends_text(row.get("lifetime")),
        age=coarse(float(age)) if row.get("asked") is False and isinstance(age, (int, float)) else "",
    )
    words = run_page(RunState.from_json(row), place)
    return [line for each in words for line in fitted(each, width or sys.maxsize)]


def _started(row: Mapping[str, object]) -> str:
    unix = row.get("started_unix")
    return (
        time.strftime("%m-%d %H:%M", time.localtime(unix)) if isinstance(unix, (int, float)) and unix else ""
    )
