"""The story of a run, or of one item, as lines of text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from . import units
from .story import WORTH_S, Span, StepSpan, Story
from .text import harmless, shortened

_BARS = "▁▂▃▄▅▆▇█"
LONGEST = 12
"""So many of the items that took longest are told."""
_NAME = 40


def run_lines(story: Story, width: int) -> Iterator[str]:
    """How the run went: what `usable` waited for, its steps, the items that took longest, and all that waited."""
    state = story.state
    usable = f"usable after {units.duration(story.usable_s)}" if story.usable_s is not None else "not usable"
    yield f"{harmless(state.run)}  {harmless(state.state)}, {usable}, {units.duration(story.end_s)} in all"
    path = story.critical_path()
    if path:
        until = "`usable`" if story.usable_s is not None else "its end"
        yield from ("", f"What {until} waited for, one after the other:")
        yield from _rows(path, story.end_s, width)
    if story.steps:
        yield from ("", "Steps, and how long was worked on them (╌ is waiting):")
        yield from _rows(story.steps, story.end_s, width)
    longest = sorted(
        (span for span in story.spans if span.took_s >= WORTH_S), key=lambda span: span.took_s, reverse=True
    )
    if longest:
        yield from ("", "What took longest:")
        yield from _rows(longest[:LONGEST], story.end_s, width)
    waits = [
        (wait, span) for span in story.spans for wait in span.waits if wait.end_s - wait.begin_s >= WORTH_S
    ]
    if waits:
        yield from ("", "Waits:")
        for wait, span in sorted(waits, key=lambda pair: pair[0].begin_s)[:LONGEST]:
            took = units.duration(wait.end_s - wait.begin_s)
            yield f"  {units.clock(wait.begin_s):>6}  {took:>9}  {_label(span)}  {harmless(wait.why)}"


def item_lines(span: Span, width: int) -> Iterator[str]:
    """The timeline of one item: attempts, sources, speeds, waits and why."""
    level = f", {span.level}" if span.level else ""
    yield f"{span.kind} {harmless(span.item)}  {span.state} after {units.duration(span.took_s)}{level}"
    for at_s, note in span.notes:
        yield f"  {units.clock(at_s):>6}  {harmless(note)}"
    if span.speeds:
        yield f"  speed   {speed_bar(span, max(min(width - 40, 60), 10))}"


def speed_bar(span: Span, width: int) -> str:
    """The speeds from begin to end as a row of *width* blocks, with the slowest and the fastest."""
    speeds = [0.0] * width
    for at_s, speed in span.speeds:
        at = min(int((at_s - span.begin_s) / max(span.took_s, 1e-9) * width), width - 1)
        speeds[at] = max(speeds[at], speed)
    for at in range(1, width):  # between two reports it went on as at the last
        speeds[at] = speeds[at] or speeds[at - 1]
    most = max(speeds) or 1.0
    blocks = "".join(_BARS[round(speed / most * (len(_BARS) - 1))] for speed in speeds)
    told = [speed for _, speed in span.speeds]
    return f"{blocks}  {units.speed(min(told))} to {units.speed(max(told))}"


def _rows(spans: Sequence[Span | StepSpan], all_s: float, width: int) -> Iterator[str]:
    most = min(_NAME, max(width - 36, 16))
    names = [
        shortened(span.name, most) if isinstance(span, StepSpan) else _short(span, most) for span in spans
    ]
    column = max(map(cell_len, names))
    room = max(width - column - 24, 10)
    for span, name in zip(spans, names, strict=True):
        begin = min(int(span.begin_s / max(all_s, 1e-9) * room), room - 1)
        length = max(round((span.end_s - span.begin_s) / max(all_s, 1e-9) * room), 1)
        bar = "·" * begin + "━" * min(length, room - begin)
        if isinstance(span, StepSpan):
            bar = _step_bar(span, len(bar), begin, room / max(all_s, 1e-9))
        padded = name + " " * (column - cell_len(name))
        took = units.duration(span.work_s if isinstance(span, StepSpan) else span.took_s)
        yield f"  {padded}  {units.clock(span.begin_s):>6}  {took:>9}  {bar}"


def _step_bar(step: StepSpan, length: int, begin: int, cells_per_s: float) -> str:
    cells = ["·"] * begin + ["╌"] * (length - begin)
    for from_s, to_s in step.worked:
        first = min(max(int(from_s * cells_per_s), begin), length - 1)
        for at in range(first, min(max(round(to_s * cells_per_s), first + 1), length)):
            cells[at] = "━"
    return "".join(cells)


def _short(span: Span, most: int) -> str:
    """`_label` in at most so many cells: where there is no room for the folders, the name alone."""
    label = _label(span)
    if cell_len(label) > most:
        label = f"{span.kind} {harmless(span.item).rstrip('/').rpartition('/')[2]}"
    return shortened(label, most)


def _label(span: Span) -> str:
    """The item with its kind: ``download ComfyUI/models/model.safetensors``."""
    return f"{span.kind} {harmless(span.item)}"
