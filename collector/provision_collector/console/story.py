"""How a run went, from its events: when each item began and ended, what it waited for, how fast it came. Pure.

Times are seconds since the run started, by the instance's clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from provision_agent.contract.events import Event
from provision_agent.contract.status import RunState
from provision_agent.contract.status_parts import ItemState
from provision_agent.contract.steps import GROUPS, STEPS

from .lines import line_of
from .progress import Progress, parsed_time
from .values import number, text

KINDS = {group: kind for kind, group in GROUPS.items()}
_WAITS = ("waiting", "stalled", "retrying")
_OVER = ("done", "failed", "skipped", "passed", "ready")
MAX_SPEEDS = 4096
MAX_NOTES = 500
WORTH_S = 0.05
"""What took less held nobody up."""
SLACK_S = 0.25
"""What ends so shortly before something begins may be what it waited for."""


@dataclass
class Wait:
    """A while in which an item did not move."""

    begin_s: float
    end_s: float
    why: str


@dataclass(eq=False)
class Span:
    """One item from its begin to its end."""

    kind: str
    item: str
    begin_s: float
    end_s: float
    level: str = ""
    state: str = "running"
    is_over: bool = False
    waits: list[Wait] = field(default_factory=list)
    speeds: list[tuple[float, float]] = field(default_factory=list)
    """When, and bytes per second."""
    notes: list[tuple[float, str]] = field(default_factory=list)
    """When, and what happened, in words."""

    @property
    def took_s(self) -> float:
        """From its begin to its end, or to now."""
        return self.end_s - self.begin_s

    def put_off(self, by_s: float) -> None:
        """All of it was *by_s* seconds later."""
        self.begin_s, self.end_s = self.begin_s + by_s, self.end_s + by_s
        self.waits = [Wait(wait.begin_s + by_s, wait.end_s + by_s, wait.why) for wait in self.waits]
        self.speeds = [(at_s + by_s, speed) for at_s, speed in self.speeds]
        self.notes = [(at_s + by_s, note) for at_s, note in self.notes]


@dataclass
class StepSpan:
    """One step from its begin to its end."""

    name: str
    begin_s: float
    end_s: float
    worked: list[tuple[float, float]] = field(default_factory=list)
    """When one of its items at least was worked on; in between they waited, as for the environment or for other steps."""

    @property
    def work_s(self) -> float:
        """How long its items were worked on, those that went on together counted once."""
        return sum(end_s - begin_s for begin_s, end_s in self.worked)


@dataclass(frozen=True)
class Story:
    """All of it. What has not ended goes on until `end_s`, the last that is known."""

    state: RunState
    spans: list[Span]
    steps: list[StepSpan]
    end_s: float
    usable_s: float | None

    def critical_path(self) -> list[Span]:
        """What stood one after the other between the start and `usable` (or the end): each item waited for the one before.

        From the critical item that ended last it goes back to the one that ended last before that began, and so on. Of
        those that ended together the one that began last counts: the others had been going all the time.
        """
        until = self.usable_s if self.usable_s is not None else self.end_s
        slack_s = max(SLACK_S, self.end_s / 100)
        open_ = [span for span in self.spans if span.level in ("critical", "") and span.took_s >= WORTH_S]
        path: list[Span] = []
        while open_ := [span for span in open_ if span.end_s <= until + slack_s]:
            end_s = max(span.end_s for span in open_)
            together = [span for span in open_ if span.end_s >= end_s - slack_s]
            last = max(together, key=lambda span: span.begin_s)
            path.append(last)
            open_.remove(last)
            until = min(last.begin_s, until)
        return path[::-1]

    def of(self, wanted: str) -> list[Span]:
        """The items that *wanted* means: that name or path, else the end of one, else a part of one."""
        for fits in (
            lambda span: span.item == wanted,
            lambda span: span.item.rstrip("/").rpartition("/")[2] == wanted,
            lambda span: wanted.lower() in span.item.lower(),
        ):
            found = [span for span in self.spans if fits(span)]
            if found:
                return found
        return []


def story_of(run: str, host: str, events: Iterable[Event]) -> Story:
    """The story that *events* tell, those of the run's agent in their order."""
    state, progress = RunState(run), Progress(host)
    progress.follow(state)
    spans: dict[tuple[str, str], Span] = {}
    steps: dict[str, StepSpan] = {}
    now_s, usable_s = 0.0, None
    for event in events:
        state.fold(event)
        progress.take(event.data)
        began, at = parsed_time(state.started), parsed_time(event.ts)
        if began is not None and at is not None:
            now_s = max(now_s, (at - began).total_seconds())
        if event.name in ("step_started", "step_finished", "step_failed"):
            name = text(event.data, "step")
            steps.setdefault(name, StepSpan(name, now_s, now_s)).end_s = now_s
        if event.name == "run_usable":
            usable_s = now_s
        kind = event.type
        if kind is not None and kind.group and event.key:
            item = state.items[kind.group].get(event.key)
            if item is not None:
                span = spans.setdefault(
                    (kind.group, event.key), Span(KINDS[kind.group], item.item, now_s, now_s)
                )
                _take(span, event, item, now_s, progress)
    for span in spans.values():
        if not span.is_over:
            span.end_s = now_s
            span.state = "left at the end of the run," if state.verdict is not None else span.state
    for name, step in steps.items():
        if state.steps[name].state == "running":
            step.end_s = now_s
    unseen_s = _unseen_s(state, now_s, usable_s)
    for span in spans.values():
        span.put_off(unseen_s)
    for name, step in steps.items():
        step.begin_s, step.end_s = step.begin_s + unseen_s, step.end_s + unseen_s
        step.worked = _worked(step, [span for span in spans.values() if _is_of(span, name)])
    return Story(
        state,
        list(spans.values()),
        list(steps.values()),
        now_s + unseen_s,
        None if usable_s is None else usable_s + unseen_s,
    )


def _is_of(span: Span, step: str) -> bool:
    known = STEPS.get(step)
    if known is None or known.kind != span.kind:
        return False
    return step not in ("apt", "python") or (step == "apt") == span.item.startswith("apt:")


def _worked(step: StepSpan, spans: list[Span]) -> list[tuple[float, float]]:
    """When *spans*, the items of *step*, went on; the whole of a step that tells of no item."""
    if not spans:
        return [(step.begin_s, step.end_s)]
    parts: list[tuple[float, float]] = []
    for span in spans:
        at_s = span.begin_s
        for wait in span.waits:
            parts.append((at_s, wait.begin_s))
            at_s = wait.end_s
        parts.append((at_s, span.end_s))
    merged: list[tuple[float, float]] = []
    for begin_s, end_s in sorted(part for part in parts if part[1] > part[0]):
        if merged and begin_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end_s, merged[-1][1]))
        else:
            merged.append((begin_s, end_s))
    return merged


def _unseen_s(state: RunState, now_s: float, usable_s: float | None) -> float:
    """How long the run went before its agent's first event: by what the agent itself says of `usable` and of the end."""
    told = (
        (state.usable_after_s, usable_s),
        (state.duration_s if state.verdict is not None else None, now_s),
    )
    return next((max(said - seen, 0.0) for said, seen in told if said is not None and seen is not None), 0.0)


def _take(span: Span, event: Event, item: ItemState, now_s: float, progress: Progress) -> None:
    was = span.state
    if was == "queued" and item.state != "queued":
        span.begin_s = now_s
    span.item, span.state = item.item, item.state
    span.level = text(event.data, "level") or span.level
    span.end_s, span.is_over = now_s, item.state in _OVER
    if span.waits and was in _WAITS:
        span.waits[-1].end_s = now_s
    line = line_of(event.data, progress)
    if item.state in _WAITS and line is not None:
        span.waits.append(Wait(now_s, now_s, line.detail or line.what))
    what = event.name.partition("_")[2]
    speed = number(event.data, "bytes_per_s")
    if what == "progress" and speed and len(span.speeds) < MAX_SPEEDS:
        span.speeds.append((now_s, speed))
    if line is not None and (what != "progress" or span.kind != "download") and len(span.notes) < MAX_NOTES:
        span.notes.append((now_s, "  ".join(part for part in (line.what, line.detail) if part)))
