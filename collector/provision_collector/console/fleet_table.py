"""Many instances on their way up as a table that fits: a row for each, a sum, and what is alike said once. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len

from . import units
from .progress import BOOTING, Progress
from .runs import side_by_side
from .text import harmless, shortened, wrapped

GOING = ("connecting", "running", "usable")
MANY = 3
"""So many equal words of rows are said once below the table."""
_BAR, _LONG_BAR = 10, 30
_NARROW, _WIDE = 72, 100


@dataclass
class Row:
    """One instance as the table shows it. `progress` is None before its run began, and after an earlier call's end."""

    name: str
    state: str
    progress: Progress | None = None
    why: str = ""
    """Why it waits or how it ended, in words."""


def fleet_lines(rows: Sequence[Row], width: int, height: int, elapsed_s: float) -> list[str]:
    """The table as it is now, in at most *height* lines of at most *width* columns.

    Rows that move come first; of the others so many are shown as there is room for, and the rest is counted.
    """
    alike = _alike(rows)
    head = _head(rows, elapsed_s)
    foot = [*_total(rows, width), *(f"  {count} × {words}" for words, count in alike.items())]
    room = max(height - len(head) - len(foot), 1)
    ordered = sorted(rows, key=_urgency)
    shown = ordered if len(ordered) <= room else ordered[: room - 1]
    name = min(max((cell_len(row.name) for row in shown), default=0), max(width // 3, 16))
    columns = (name, max((len(row.state) for row in shown), default=0))
    lines = [*head, *(_row(row, columns, width, alike) for row in shown)]
    if len(shown) < len(rows):
        lines.append(f"  … and {_counted(ordered[len(shown) :])}")
    return [shortened(line, width) for line in (*lines, *foot)][:height]


def _urgency(row: Row) -> int:
    """What moves first, then what went wrong, what waits, and what is done."""
    order = {"complete": 3, "waiting": 2, "held": 2}
    return 0 if row.state in GOING else order.get(row.state, 1)


def _head(rows: Sequence[Row], elapsed_s: float) -> list[str]:
    return [f"{units.counted(len(rows), 'instance')}  {_counted(rows)}  {units.clock(elapsed_s)}"]


def _counted(rows: Sequence[Row]) -> str:
    counts = Counter(row.state for row in rows)
    return ", ".join(f"{count} {harmless(state)}" for state, count in counts.most_common())


def _row(row: Row, columns: tuple[int, int], width: int, alike: dict[str, int]) -> str:
    name, state = shortened(harmless(row.name), columns[0]), harmless(row.state)
    start = f"{name}{' ' * (columns[0] - cell_len(name))}  {state:<{columns[1]}}"
    words = "" if row.why in alike else row.why
    moves = "" if row.progress is None or row.state not in GOING else _movement(row.progress, width)
    return "  ".join(part for part in (start, moves, words) if part).rstrip()


def _movement(progress: Progress, width: int) -> str:
    if not progress.is_connected:
        return progress.connection.replace(BOOTING, "not reachable yet:")
    totals = progress.totals()
    if totals.are_over:
        running = [name for name, step in progress.state.steps.items() if step.state == "running"]
        return ", ".join(map(harmless, running)) or ("starting" if progress.state.started else "connected")
    total = totals.total_bytes if totals.is_whole else 0
    parts = [*_bar(totals.bytes, total, width), *_sums(totals.bytes, total, totals.bytes_per_s, width)]
    left = units.waiting(totals.left_s) if totals.left_s is not None else ""
    return "  ".join([*parts, f"{left:>8}"])


def _bar(done: float, total: float, width: int) -> list[str]:
    """How far, as a bar; none where there is no room for one, or nobody knows the end."""
    if width < _NARROW or not total:
        return []
    room = _BAR if width < _WIDE else _LONG_BAR
    full = int(min(done / total, 1.0) * room)
    return [f"{'━' * full}{'─' * (room - full)}"]


def _sums(done: float, total: float, bytes_per_s: float, width: int) -> list[str]:
    """How far and how fast, in columns: a percentage for an amount where there is no room."""
    rate = f"{units.speed(bytes_per_s) if bytes_per_s else '':>9}"
    if width < _NARROW:
        return [f"{units.percent(done, total):>4}" if total else f"{units.size(done):>7}", rate]
    amount = units.size_of(done, total) if total else units.size(done)
    return [f"{amount:>12}", rate]


class _Sum(NamedTuple):
    """All instances added up; `total` is 0 where nobody knows the end."""

    done: int
    total: int
    bytes_per_s: float
    arrival: str
    """When the last one is there, in words; empty where that cannot be said."""

    def words(self, width: int) -> str:
        """Bytes, speed, and when the last one is there."""
        sums = (part.strip() for part in _sums(self.done, self.total, self.bytes_per_s, width))
        return "  ".join(part for part in (*sums, self.arrival) if part)


def _total(rows: Sequence[Row], width: int) -> list[str]:
    """The line of the sum, if there is one."""
    sum_ = _sum_of(rows)
    if sum_ is None:
        return []
    return ["  ".join(("total", *_bar(sum_.done, sum_.total, width), sum_.words(width)))]


def _sum_of(rows: Sequence[Row]) -> _Sum | None:
    """None where nothing goes on."""
    told = [
        (row.state in GOING, row.progress, row.progress.totals()) for row in rows if row.progress is not None
    ]
    known = [(is_going, progress, totals) for is_going, progress, totals in told if totals.files]
    going = [(progress, totals) for is_going, progress, totals in known if is_going]
    if not going:
        return None
    done, total = sum(each.bytes for _, _, each in known), sum(each.total_bytes for _, _, each in known)
    left = [0.0 if each.bytes >= each.total_bytes else each.left_s for _, each in going]
    is_whole = all(each.is_whole for _, each in going)
    speed = sum(each.bytes_per_s for _, each in going)
    ahead = [each for each in left if each is not None]
    is_told = is_whole and len(ahead) == len(left) and max(ahead) >= 1
    arrival = f"all there {going[0][0].arrival(max(ahead))}" if is_told else ""
    return _Sum(done, total if is_whole else 0, speed, arrival)


def _alike(rows: Sequence[Row]) -> dict[str, int]:
    """The words that many rows have, each with how many those are."""
    counts = Counter(row.why for row in rows if row.why)
    return {words: count for words, count in counts.items() if count >= MANY}


def total_line(rows: Sequence[Row]) -> str:
    """How far all of them together are, in one line for a pipe."""
    sum_ = _sum_of(rows)
    return "  ".join([_counted(rows), *([sum_.words(_WIDE)] if sum_ is not None else [])])


class Ended(NamedTuple):
    """How one instance stands, in words that act on no terminal; what is not known is empty."""

    name: str
    state: str
    code: str = ""
    usable: str = ""
    took: str = ""
    next: str = ""
    run: str = ""
    why: str = ""


def ended_lines(rows: Sequence[Ended], width: int | None) -> list[str]:
    """The lines of *rows*, of which nothing is cut: in columns where those fit, the reason below each.

    Args:
        width: In columns; None: as wide as it takes, for a pipe.
    """
    headings = ("INSTANCE", "STATE", "CODE", "USABLE", "TOOK", "NEXT", "RUN")
    table = side_by_side([headings, *(row[:-1] for row in rows)], width)
    lines = table[:1]
    for number, row in enumerate(rows):
        lines += [table[number + 1]] if table else _below(row, max(width or 0, 20))
        lines += _indented(row.why, width)
    return lines


def _below(row: Ended, width: int) -> list[str]:
    facts = [
        f"usable after {row.usable}" if row.usable else "",
        f"took {row.took}" if row.took else "",
        f"next {row.next}" if row.next else "",
        f"run {row.run}" if row.run else "",
    ]
    code = f" ({row.code})" if row.code else ""
    return [
        *wrapped(f"{row.name}  {row.state}{code}", width),
        *_indented("  ".join(filter(None, facts)), width),
    ]


def _indented(words: str, width: int | None) -> list[str]:
    if not words:
        return []
    return [f"  {line}" for line in (wrapped(words, width - 2) if width else [words])]
