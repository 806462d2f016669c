"""The picture of a run at one moment, fitted to a terminal of any size. Pure: no clock, no terminal.

Every line is at most *width* columns wide and there are at most *height* of them, so the terminal never wraps
or scrolls the picture. Words and marks carry the meaning; colour only repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from provision_agent.contract.status_parts import ItemState, StepState
from provision_agent.contract.steps import GROUPS, STEPS
from rich.cells import cell_len
from rich.text import Text

from . import units
from .lines import outputs_line
from .progress import DONE, Progress, Totals, steps_in_order, time_left_s
from .text import harmless, shortened

ACTIVE = ("running", "stalled", "retrying", "waiting")
_STEP_MARKS = {"done": ("✓", "green"), "failed": ("✗", "red"), "running": ("▸", "cyan")}
_MARKS = {
    "running": ("▸", "cyan"),
    "retrying": ("↻", "yellow"),
    "stalled": ("!", "yellow"),
    "waiting": ("·", "yellow"),
}
_NAME, _AMOUNT, _SPEED, _LEFT = 20, 12, 9, 8
_NARROW, _WITH_BAR = 60, 72
_GAP = 2
ROOMY = 6
"""With fewer lines to spare than this, none is left blank."""


class _Columns(NamedTuple):
    """How wide the name and the bar are; below `_NARROW` there is a percentage in place of amounts."""

    name: int
    bar: int
    is_narrow: bool


def frame(progress: Progress, width: int, height: int) -> list[Text]:
    """The lines to show now, from top to bottom.

    Args:
        progress: The run.
        width: Columns of the terminal; no line is wider.
        height: Lines of the terminal; there are never more.
    """
    head, foot = _head(progress, width), _foot(progress, width)
    spare = height - len(head) - len(foot)
    rows = _rows(progress, width, spare - 3 if spare > ROOMY else spare)
    lines = _spaced(head, spare) + _spaced(rows, spare) + _spaced(foot, spare)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[: max(height, 1)]


def _spaced(lines: list[Text], spare: int) -> list[Text]:
    return [Text(), *lines] if lines and spare > ROOMY else lines


# -- head: which run this is, how far in time, how it is reached, which steps


def _head(progress: Progress, width: int) -> list[Text]:
    name = harmless(progress.state.name or "provision")
    lines = [_justified(Text.assemble((name, "bold"), " on ", progress.host), _time(progress), width)]
    run = harmless(progress.state.run)
    link = Text(progress.connection, style="dim" if progress.is_connected else "yellow")
    if not progress.is_connected or cell_len(run) + 3 + len(link) > width:
        lines.append(link)
    else:
        lines.append(Text.assemble((run, "dim"), (" · ", "dim"), link))
    steps = steps_in_order(progress.state)
    return lines + _flowed((_step(progress, name, step) for name, step in steps), width)


def _time(progress: Progress) -> Text:
    text = Text(units.clock(progress.offset_s), style="bold")
    left_s = progress.deadline_left_s
    if left_s is not None and progress.state.verdict is None:
        text.append(f" · limit in {units.coarse(left_s)}", style="dim" if left_s > 60 else "yellow")
    return text


def _step(progress: Progress, name: str, step: StepState) -> Text:
    waits_for = _waits_for(progress, name) if step.state == "running" else ""
    mark, style = ("·", "yellow") if waits_for else _STEP_MARKS.get(step.state, ("·", "dim"))
    if step.counts.get("failed"):
        mark, style = _failure_mark(progress)
    took_s = step.duration_s
    took = units.duration(took_s) if took_s is not None else units.waiting(progress.age_s(step.started))
    return Text.assemble((f"{mark} ", style), harmless(name), (f" {took}{waits_for}", "dim"))


def _waits_for(progress: Progress, name: str) -> str:
    """What the step *name* waits for, where none of its items moves; empty where one does, or nobody knows."""
    known = STEPS.get(name)
    items = progress.items(known.kind, *ACTIVE) if known is not None and known.kind in GROUPS else []
    if not items or any(item.state not in ("waiting", "retrying") for _, item in items):
        return ""
    key, item = items[0]
    if name == "uploads":
        why = harmless(item.text("reason"))
    else:
        why = _trouble(progress, key, item) if name == "downloads" else "trying again"
    return f", {why}" if why else ""


# -- rows: what is going on, one line each


def _rows(progress: Progress, width: int, room: int) -> list[Text]:
    columns = _columns(progress, width)
    others = [
        _other(progress, kind, item, state, width)
        for kind in GROUPS
        if kind != "download"
        for item, state in progress.items(kind, *ACTIVE)
    ]
    files = [_file(progress, key, item, columns) for key, item in progress.items("download", *ACTIVE)]
    rows = others[: max(room // 2, 1)] + files
    if len(rows) <= room:
        return rows
    hidden = len(rows) - max(room - 1, 0)
    return [*rows[: max(room - 1, 0)], Text(f"  … and {hidden} more", style="dim")][: max(room, 0)]


def _name(item: ItemState) -> str:
    """The file's own name; the last part of its URL as long as no server has told one."""
    label = item.item
    return harmless(label.rstrip("/").rpartition("/")[2])


def _file(progress: Progress, key: str, item: ItemState, columns: _Columns) -> Text:
    mark, style = _MARKS[item.state]
    name = shortened(_name(item), columns.name)
    row = Text.assemble((f"{mark} ", style), name + " " * (columns.name - cell_len(name) + _GAP))
    done, total = item.number("bytes"), item.number("total_bytes")
    trouble = _trouble(progress, key, item)
    if trouble:
        percent = f"{units.percent(done, total)}  " if done and total and not columns.is_narrow else ""
        words = trouble.partition(" (")[0] if columns.is_narrow else trouble
        return row.append(percent).append(words, style="cyan" if item.state == "running" else "yellow")
    bytes_per_s = 0.0 if progress.is_lost else item.number("bytes_per_s")
    left_s = time_left_s(done, total, bytes_per_s)
    return row.append(_movement(done, total, bytes_per_s, left_s, columns))


def _trouble(progress: Progress, key: str, item: ItemState) -> str:
    """Why this file is not moving just now; empty if it is."""
    passed_s, wait_s = progress.since_s("download", key), item.number("wait_s")
    left = units.waiting(wait_s - passed_s)
    if item.state == "waiting":
        host = harmless(item.text("host") or "host")
        return f"waiting {left} ({host} limit)" if wait_s - passed_s >= 0.5 else f"waiting for {host}"
    if item.state == "retrying":
        when = f"in {left}" if wait_s > passed_s else "now"
        return f"retrying {when} ({harmless(item.text('class') or 'error')})"
    if item.state == "stalled":
        return "stalled, trying another way"
    done, total = item.number("bytes"), item.number("total_bytes")
    if total and done >= total:
        return "verifying…"
    return "" if done else "starting…"


def _movement(done: float, total: float, bytes_per_s: float, left_s: float | None, columns: _Columns) -> Text:
    rate = units.speed(bytes_per_s) if bytes_per_s else ""
    if columns.is_narrow:
        return Text(f"{units.percent(done, total) if total else units.size(done):>4}{rate:>{_GAP + _SPEED}}")
    left = units.waiting(left_s) if left_s is not None else ""
    amount = units.size_of(done, total) if total else units.size(done)
    text = Text()
    if columns.bar:
        text.append(_bar(done, total, columns.bar)).append(" " * _GAP)
    text.append(f"{amount:>{_AMOUNT}}").append(f"{rate:>{_GAP + _SPEED}}", style="cyan")
    return text.append(f"{left:>{_GAP + _LEFT}}", style="dim")


def _other(progress: Progress, kind: str, item: str, state: ItemState, width: int) -> Text:
    mark, style = _MARKS[state.state]
    since = units.waiting(progress.since_s(kind, item))
    words = {"service": f"starting, {since}", "command": f"running, {since}"}.get(kind) or (
        harmless(state.text("message") or since)
    )
    if kind == "upload":
        item, words = state.item, _sent(state) or words
    if state.state == "retrying":
        words = f"retrying ({harmless(state.text('class') or 'error')})"
    name = shortened(harmless(item), max(width // 3, 12))
    return Text.assemble((f"{mark} ", style), f"{kind} {name}", (f"  {words}", "dim"))


def _sent(upload: ItemState) -> str:
    """How far an upload is; empty before anything is known."""
    if upload.state == "waiting":
        return harmless(upload.text("reason"))
    total, rate = upload.number("total_bytes"), upload.number("bytes_per_s")
    return f"{units.size_of(upload.number('bytes'), total)}  {units.speed(rate)}" if total else ""


# -- foot: the sum of it


def _foot(progress: Progress, width: int) -> list[Text]:
    totals = progress.totals()
    counts = [*_counts(progress, totals)]
    if totals.left_s and totals.left_s >= 1:
        counts.append(Text(f"all there {progress.arrival(totals.left_s)}", style="cyan"))
    lines = _flowed(counts, width)
    if not totals.are_over:
        columns = _columns(progress, width)
        row = Text("total".ljust(columns.name + 2 + _GAP), style="bold")
        known = float(totals.total_bytes) if totals.is_whole else 0.0
        lines.append(row.append(_movement(totals.bytes, known, totals.bytes_per_s, totals.left_s, columns)))
    if progress.outputs:
        lines.append(Text.assemble(("⇣ ", "cyan"), outputs_line(progress.outputs).text))
    for name, service in progress.items("service", "ready"):
        url = harmless(service.text("url") or "")
        lines.append(Text.assemble(("✓ ", "green"), f"service {harmless(name)} ready  {url}"))
    return lines


def _counts(progress: Progress, totals: Totals) -> Iterable[Text]:
    if totals.done:
        yield Text.assemble(("✓ ", "green"), f"{totals.done} of {units.counted(totals.files, 'file')}")
    queued = len(progress.items("download", "queued"))
    if queued:
        yield Text(f"· {queued} waiting for their turn", style="dim")
    if totals.skipped:
        yield Text(f"· {totals.skipped} skipped", style="dim")
    if totals.failed:
        mark, style = _failure_mark(progress)
        yield Text.assemble((f"{mark} ", style), f"{units.counted(totals.failed, 'file')} failed")
    passed, failed = len(progress.items("check", *DONE)), len(progress.items("check", "failed"))
    if passed:
        yield Text.assemble(("✓ ", "green"), f"{units.counted(passed, 'check')} passed")
    if failed:
        mark, style = _failure_mark(progress)
        yield Text.assemble((f"{mark} ", style), f"{units.counted(failed, 'check')} failed")


# -- parts


def _failure_mark(progress: Progress) -> tuple[str, str]:
    """As alarming as the worst error so far: a missing optional file is no reason to worry."""
    is_harmless = all(error.level == "optional" for error in progress.state.errors.values())
    return ("!", "yellow") if is_harmless else ("✗", "red")


def _columns(progress: Progress, width: int) -> _Columns:
    if width < _NARROW:
        return _Columns(max(width - 2 - _GAP - 4 - _GAP - _SPEED, 6), 0, True)
    free = width - 2 - _GAP - _AMOUNT - _GAP - _SPEED - _GAP - _LEFT
    if width < _WITH_BAR:
        return _Columns(free, 0, False)
    names = (cell_len(_name(item)) for key, item in progress.items("download"))
    longest = max(names, default=0)
    bar = min(max(free // 3, free - _GAP - longest), 40)
    return _Columns(min(free - _GAP - bar, max(longest, _NAME)), bar, False)


def _bar(done: float, total: float, width: int) -> Text:
    if not total:
        return Text("·" * width, style="dim")
    halves = int(min(done / total, 1.0) * width * 2)
    full, half = divmod(halves, 2)
    return Text.assemble(("━" * full + "╸" * half, "cyan"), ("─" * (width - full - half), "dim"))


def _justified(left: Text, right: Text, width: int) -> Text:
    left.truncate(max(width - len(right.plain) - _GAP, 1), overflow="ellipsis")
    return Text.assemble(left, " " * max(width - left.cell_len - right.cell_len, 1), right)


def _flowed(parts: Iterable[Text], width: int) -> list[Text]:
    """*parts* side by side, in as few lines as they need."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 3 + part.cell_len <= width:
            lines[-1].append("   ").append(part)
        else:
            lines.append(part.copy())
    return lines
