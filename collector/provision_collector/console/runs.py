"""Many runs as a table that fits: side by side where there is room, else two lines a run. Nothing is cut. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len

from .text import wrapped

HEADINGS = ("RUN", "STATE", "HOST", "PROFILE", "STARTED", "FILES", "BYTES", "ERRORS")
_GAP = "  "
_INDENT = 2


class Row(NamedTuple):
    """A run, in words that act on no terminal; what is not known is empty."""

    run: str
    state: str
    host: str
    profile: str = ""
    started: str = ""
    files: str = ""
    bytes: str = ""
    errors: str = ""


def runs_table(rows: Sequence[Row], width: int | None) -> list[str]:
    """The lines of *rows*.

    Args:
        width: In columns; None: as wide as it takes, for a pipe.
    """
    lines = side_by_side([HEADINGS, *rows], width)
    return lines or [line for row in rows for line in _below_each_other(row, max(width or 0, 20))]


def side_by_side(cells: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """A line for each row of *cells*, in columns; none where they do not fit into *width* columns."""
    widths = [max(cell_len(row[at]) for row in cells) for at in range(len(cells[0]))]
    fits = width is None or sum(widths) + len(_GAP) * (len(widths) - 1) <= width
    return [_side_by_side(row, widths) for row in cells] if fits else []


def _side_by_side(cells: Sequence[str], widths: Sequence[int]) -> str:
    pairs = zip(cells, widths, strict=True)
    return _GAP.join(text + " " * (width - cell_len(text)) for text, width in pairs).rstrip()


def _below_each_other(row: Row, width: int) -> Iterator[str]:
    yield from wrapped(f"{row.run}{_GAP}{row.state}", width)
    parts = [row.host, row.profile, row.started, f"{row.files} files" if row.files else "", row.bytes]
    parts.append(f"{row.errors} errors" if row.errors else "")
    words = _GAP.join(part for part in parts if part)
    yield from (" " * _INDENT + line for line in wrapped(words, width - _INDENT))
