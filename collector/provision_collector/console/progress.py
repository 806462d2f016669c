"""What the views know of one run: the fold of its events, this side's connection, and the time between.

The state is that of the run which this process watches, or else is folded here from the events. Times are taken
from the events, and go on with the local clock, so that a wrong clock on the instance does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from provision_agent.contract.events import parse_event
from provision_agent.contract.parsing import ParseError
from provision_agent.contract.status import RunState
from provision_agent.contract.status_parts import ItemState, StepState
from provision_agent.contract.steps import GROUPS, STEPS, THERE

from . import units
from .text import harmless
from .values import Object, number

DONE = ("done", "passed", "ready")
"""The states of the fold in which an item is there."""

GUESS_S = 600.0
"""What the first bytes of a file say of its end is believed only below this."""

BOOTING = "waiting for the instance to boot:"
CLOCK_FROM_S = 60.0
"""What comes sooner needs no time of day."""
DAY_S = 86400.0
_CAUSES = {
    "refused": "connection refused",
    "timed-out": "no answer",
    "reset": "connection reset",
    "no-route": "no route to it",
    "publickey-denied": "it does not take the key yet",
}


class Totals(NamedTuple):
    """All downloads together. `is_whole`: every size is known, so `total_bytes` is all there is to come."""

    files: int
    done: int
    failed: int
    skipped: int
    bytes: int
    total_bytes: int
    bytes_per_s: float
    is_whole: bool
    left_s: float | None
    """Seconds to go at this speed, and not before the slowest file is there; None: that cannot be said yet."""

    @property
    def are_over(self) -> bool:
        """No file is still to come."""
        return self.done + self.failed + self.skipped >= self.files


class Progress:
    """Take every event of both sides, in order; ask for what to show."""

    def __init__(
        self,
        host: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.host = harmless(host)
        self.state = RunState("")
        self.is_connected = False
        self.outputs: Object = {}
        """What was told last of the files that come home; empty where none do."""
        self._folds = True
        self._has_begun = False
        self._link: Object = {"event": "connecting"}
        self._link_since = clock()
        self._clock = clock
        self._now = now
        self._began = clock()
        self._before_run_s = 0.0
        self._run_s = 0.0
        self._run_s_seen = clock()
        self._changed: dict[str, float] = {}
        self._to_fetch_bytes = 0

    def follow(self, state: RunState) -> None:
        """Read *state*, which somebody else folds, from now on."""
        self.state, self._folds = state, False

    def take(self, event: Object) -> None:
        """Take the next *event* of either side."""
        if self._folds and event.get("run"):
            self.state.run = str(event["run"])
        if event.get("from") == "collector":
            self._take_own(event)
            return
        if self._folds:
            try:
                self.state.fold(parse_event(event))
            except ParseError:
                return  # the outcome says so
        name = str(event.get("event"))
        if name == "preflight_passed":
            self._to_fetch_bytes = int(number(event, "bytes_to_fetch"))
        self._take_time(event)
        if "item" in event and name != "download_progress":
            key = event.get("key") or event["item"]
            self._changed[f"{name.partition('_')[0]}:{key}"] = self._clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run started on the instance; 0 before."""
        if not self.state.started:
            return 0.0
        running_on = 0.0 if self.state.verdict else self._clock() - self._run_s_seen
        return self._run_s + running_on

    @property
    def offset_s(self) -> float:
        """Seconds since the user pressed enter, or since the run started where that was before."""
        if not self.state.started:
            return self._clock() - self._began
        return self._before_run_s + self.elapsed_s

    @property
    def deadline_left_s(self) -> float | None:
        """Seconds until the run ends by itself; None before it started."""
        deadline_s = self.state.deadline_s or 0.0
        return max(deadline_s - self.elapsed_s, 0.0) if deadline_s else None

    @property
    def connection(self) -> str:
        """How this machine and the instance are connected, in words that count on by themselves."""
        passed_s = self._clock() - self._link_since
        if self.is_connected:
            return "connected"
        if self._link["event"] == "connection_lost":
            wait_s = number(self._link, "retry_in_s") - passed_s
            when = f"in {units.waiting(wait_s)}" if wait_s >= 1 else "now"
            return f"connection lost, trying again {when}; the run goes on"
        if self._link.get("cause"):
            waited = units.waiting(number(self._link, "waited_s") + passed_s)
            until_s = number(self._link, "gives_up_after_s")
            until = f" of {units.waiting(until_s)} at most" if until_s else ""
            return f"{BOOTING} {waited}{until} ({cause_text(self._link['cause'])})"
        return "connecting"

    def age_s(self, ts: object) -> float:
        """Seconds since the event of this run that carried *ts*."""
        at, started = parsed_time(ts), parsed_time(self.state.started)
        return max(self.elapsed_s - (at - started).total_seconds(), 0.0) if at and started else 0.0

    def since_s(self, kind: str, item: str) -> float:
        """Seconds since the state of *item* was last told, progress aside."""
        return self._clock() - self._changed.get(f"{kind}:{item}", self._clock())

    @property
    def is_lost(self) -> bool:
        """The connection is away: the speeds that were told last are nobody's."""
        return self._link.get("event") == "connection_lost"

    def arrival(self, left_s: float) -> str:
        """When what takes *left_s* seconds more will be there: ``in 42 s``, ``in 4 m 10 s, at 08:12`` by this clock."""
        at = self._now() + timedelta(seconds=left_s)
        day = f"{at:%a} " if left_s >= DAY_S else ""
        return f"in {units.waiting(left_s)}" + (f", at {day}{at:%H:%M}" if left_s >= CLOCK_FROM_S else "")

    def items(self, kind: str, *states: str) -> list[tuple[str, ItemState]]:
        """The items of *kind* (``download``, ``check``, …) in one of *states*, by key, in the order they appeared."""
        items = self.state.items[GROUPS[kind]]
        return [pair for pair in items.items() if not states or pair[1].state in states]

    def totals(self) -> Totals:
        """The downloads added up. Skipped files count as files only: they move no byte."""
        files = [item for _, item in self.items("download")]
        moving = [item for item in files if item.state not in ("failed", "skipped")]
        sizes = [
            item.number("total_bytes") or (item.number("bytes") if item.state in DONE else None)
            for item in moving
        ]
        known_bytes = sum(int(known) for known in sizes if known)
        is_whole = None not in sizes or self._to_fetch_bytes > known_bytes
        total_bytes = known_bytes if None not in sizes else max(known_bytes, self._to_fetch_bytes)
        landed_bytes = sum(int(item.number("bytes")) for item in moving)
        running = [_movement(item) for item in moving if item.state == "running" and not self.is_lost]
        bytes_per_s = sum(speed for _, _, speed in running)
        left_s = time_left_s(landed_bytes, total_bytes, bytes_per_s) if is_whole else None
        slowest_s = max((time_left_s(*movement) or 0.0 for movement in running), default=0.0)
        return Totals(
            files=len(files),
            done=sum(is_there(item) for item in files),
            failed=len(self.items("download", "failed")),
            skipped=sum(item.state == "skipped" and not is_there(item) for item in files),
            bytes=landed_bytes,
            total_bytes=total_bytes,
            bytes_per_s=bytes_per_s,
            is_whole=is_whole,
            left_s=None if left_s is None else max(left_s, slowest_s),
        )

    def _take_own(self, event: Object) -> None:
        if event.get("event") in ("connecting", "connected", "connection_lost"):
            self._link, self._link_since = event, self._clock()
            self.is_connected = event["event"] == "connected"
        if event.get("event") in ("outputs_progress", "outputs_finished"):
            self.outputs = event

    def _take_time(self, event: Object) -> None:
        if self.state.started and not self._has_begun:
            self._has_begun = True
            self._before_run_s = self._clock() - self._began
        at, started = parsed_time(event.get("ts")), parsed_time(self.state.started)
        if at and started:
            self._run_s = max((at - started).total_seconds(), 0.0)
            self._run_s_seen = self._clock()


def steps_in_order(state: RunState) -> list[tuple[str, StepState]]:
    """The steps that have begun, by name, in the order in which people read them; those that are not known last."""
    known = [(name, state.steps[name]) for name in STEPS if name in state.steps]
    return known + [(name, step) for name, step in state.steps.items() if name not in STEPS]


def step_took(state: RunState, name: str, duration_s: float) -> str:
    """How long the step *name* took, in words: where its items mostly waited, for each other or for other steps, what of that was work."""
    step = STEPS.get(name)
    items = list(state.items[step.group].values()) if step is not None else []
    told = [0.0 if item.state == "skipped" else item.facts.get("duration_s") for item in items]
    known = [each for each in told if isinstance(each, (int, float))]
    work_s = sum(known)
    if not items or len(known) < len(items) or duration_s - work_s < max(1.0, duration_s / 2):
        return f"in {units.duration(duration_s)}"
    return f"in {units.duration(duration_s)}, {units.duration(work_s)} of it work"


def cause_text(cause: object) -> str:
    """Why a connection is not there, in words; an unknown cause as it is."""
    return _CAUSES.get(str(cause), harmless(cause))


def is_there(item: ItemState) -> bool:
    """The item has been made, or was found made already."""
    return item.state in DONE or (item.state == "skipped" and item.text("reason") in THERE)


def _movement(item: ItemState) -> tuple[float, float, float]:
    return item.number("bytes"), item.number("total_bytes"), item.number("bytes_per_s")


def time_left_s(done: float, total: float, bytes_per_s: float) -> float | None:
    """Seconds to go at this speed; None as long as that cannot be said."""
    if not total or not bytes_per_s:
        return None
    left_s = (total - done) / bytes_per_s
    is_guess = done < total / 100 and left_s > GUESS_S
    return None if is_guess else max(left_s, 0.0)


def parsed_time(ts: object) -> datetime | None:
    """The time that an event carries; None where it is missing or no time."""
    try:
        time_ = datetime.fromisoformat(str(ts))
    except ValueError:
        return None
    return time_ if time_.tzinfo else None
