"""The state of a run: the one fold of its events, for `status.json`, every view, the outcome, server and fleet.

Pure, shared by both halves. A fold takes O(1) for each event, whatever came before. Unknown events change nothing,
so that an older reader of a newer run still tells what it knows.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import fields
from typing import Callable, Dict, List, Mapping, Optional, Tuple, Type, Union

from . import event_bodies as bodies
from .event_bodies import Body
from .event_types import EventType
from .events import ITEM_STATES, Event
from .parsing import Bounds, ParseError, check_text, kind_of, parse
from .status_json import MAX_ITEMS, MAX_STEPS, ErrorTold, StateTold, type_of_items
from .status_parts import ItemError, ItemState, StepState, Totals
from .steps import GROUPS
from .version import FORMAT

MAX_UNPLANNED = 1000
"""Items that the plan does not know: packages and what a source listed beside the plan."""
MAX_WARNINGS = 1000
_THERE = ("done", "passed", "ready", "skipped")
"""States of an item that is there: words about it do not begin it again."""


class RunState:
    """The state of the run *run*; *planned* are the keys of its plan's items, where this process knows them."""

    def __init__(self, run: str, *, planned: Optional[Callable[[str], bool]] = None) -> None:
        self.run = run
        self.state = "accepted"
        """accepted, running, usable, or the verdict."""
        self.seq = 0
        self.updated: Optional[str] = None
        self.started: Optional[str] = None
        self.name = ""
        self.plan_hash = ""
        self.deadline_s: Optional[float] = None
        self.labels: Dict[str, str] = {}
        self.workspace = ""
        self.facts: Dict[str, object] = {}
        self.steps: Dict[str, StepState] = {}
        self.items: Dict[str, Dict[str, ItemState]] = {group: {} for group in GROUPS.values()}
        """By group (`downloads`, `repos`, …) and key."""
        self.errors: Dict[str, ItemError] = {}
        """By key, in the order in which they came."""
        self.warnings: List[str] = []
        self.usable_after_s: Optional[float] = None
        self.verdict: Optional[str] = None
        self.duration_s: Optional[float] = None
        self.bytes_downloaded: Optional[int] = None
        self.lock = threading.Lock()
        """Held by `fold`; whoever reads from another thread holds it, too."""
        self._planned = planned
        self._unplanned = 0
        self._count = 0

    def fold(self, event: Event) -> None:
        """Take *event*, the next of this run's agent.

        Raises:
            ParseError: it names more items than a run may have.
        """
        kind = event.type
        with self.lock:
            if kind is not None and kind.group:
                self._fold_item(event, kind)
            elif event.name in _FOLDS:
                _FOLDS[event.name](self, event)
            self.seq = event.seq
            self.updated = event.ts

    def totals(self) -> Totals:
        """Bytes per second, bytes landed and bytes to come, over all downloads."""
        return Totals.of(self.items["downloads"].values())

    @classmethod
    def from_json(
        cls, data: Mapping[str, object], *, planned: Optional[Callable[[str], bool]] = None
    ) -> "RunState":
        """What `to_json` wrote, here or elsewhere, in this version or the one before.

        Args:
            data: The JSON object; other fields in it are passed over.
            planned: The keys of its plan's items, where this process knows them.

        Raises:
            ParseError: it is no state of a run, or more than a run may have.
        """
        told = parse(StateTold, data, "status")
        state = cls(told.run, planned=planned)
        state.state, state.seq, state.verdict = told.state, told.seq, told.verdict
        state.started, state.updated = told.started, told.updated
        state.name, state.plan_hash = told.name or "", told.plan_hash or ""
        state.workspace = told.workspace or ""
        state.deadline_s, state.duration_s = told.deadline_s, told.duration_s
        state.usable_after_s, state.bytes_downloaded = told.usable_after_s, told.bytes_downloaded
        state.labels, state.facts = told.labels or {}, told.facts or {}
        state.warnings = list(told.warnings[:MAX_WARNINGS])
        for name, step in told.steps.items():
            state.steps[name] = StepState.of(step)
        for group in state.items:
            state._take_items(group, data.get(group, {}))
        for error in told.errors:
            state._add_error(error.key or error.item, error, error.item, error.level)
        return state

    def _take_items(self, group: str, told: object) -> None:
        if not isinstance(told, Mapping) or len(told) > MAX_ITEMS:
            raise ParseError(
                f"`{group}` of `status` must be an object of at most {MAX_ITEMS}, not {kind_of(told)}"
            )
        kind = type_of_items(group)
        for key, value in told.items():
            check_text(key, f"a key of {group}", Bounds(max_chars=bodies.MAX_KEY_CHARS))
            body = parse(kind, value, f"status.{group}")
            item = self._item(group, key, str(getattr(body, "item", None) or key))
            item.state = value["state"] if value.get("state") in ITEM_STATES else "running"
            for name, attribute in _kept_fields(kind):
                if name in value:
                    item.facts[name] = _shared(getattr(body, attribute))

    def to_json(self) -> Dict[str, object]:
        """The whole state as JSON values, as `status.json` and the API have it."""
        groups = {
            group: {key: item.to_json() for key, item in items.items()} for group, items in self.items.items()
        }
        return {
            "format": FORMAT,
            "run": self.run,
            "state": self.state,
            "seq": self.seq,
            "started": self.started,
            "updated": self.updated,
            "name": self.name,
            "plan_hash": self.plan_hash,
            "deadline_s": self.deadline_s,
            "labels": self.labels,
            "workspace": self.workspace,
            "facts": self.facts,
            "steps": {name: step.to_json() for name, step in self.steps.items()},
            **groups,
            "errors": [
                error.to_json() if key == error.item else dict(error.to_json(), key=key)
                for key, error in self.errors.items()
            ],
            "warnings": self.warnings,
            "usable_after_s": self.usable_after_s,
            "verdict": self.verdict,
            "duration_s": self.duration_s,
            "bytes_downloaded": self.bytes_downloaded,
        }

    def _fold_item(self, event: Event, kind: EventType) -> None:
        body, key = event.body, event.key
        assert isinstance(body, bodies.Item)
        item = self._item(kind.group, key, body.item)
        if not (event.name.endswith("_progress") and item.state in _THERE):
            item.state = kind.state or item.state
        if body.item != item.item:
            item.item = body.item  # a server has told the file's name
        facts, data = item.facts, event.data
        for name, attribute in _kept_fields(type(body)):
            if name in data:
                facts[name] = _shared(getattr(body, attribute))
        if isinstance(body, bodies.ItemFailed):
            self._add_error(key, body, body.item, body.level)
        elif kind.state in _THERE:
            self.errors.pop(key, None)

    def _item(self, group: str, key: str, label: str) -> ItemState:
        found = self.items[group].get(key)
        if found is None:
            if self._planned is not None and not self._planned(key):
                self._unplanned += 1
            if self._unplanned > MAX_UNPLANNED:
                raise ParseError(
                    f"the run tells of more than {MAX_UNPLANNED} items that its plan does not have"
                )
            if self._count >= MAX_ITEMS:
                raise ParseError(f"the run tells of more than {MAX_ITEMS} items")
            self._count += 1
            found = self.items[group][key] = ItemState(key, key if key == label else label)
        return found

    def _add_error(
        self,
        key: str,
        failure: "Union[bodies.Failed, ErrorTold]",
        item: str,
        level: Optional[str],
    ) -> None:
        self.errors.pop(key, None)  # the newest is the last
        told = (failure.message or "", failure.hint, bool(failure.retriable), failure.case, failure.about)
        self.errors[key] = ItemError(failure.class_ or "bug", item, level, *told)

    # -- what single events change

    def _run_started(self, event: Event) -> None:
        body = event.body
        assert isinstance(body, bodies.RunStarted)
        self.state = "running"
        self.started = self.started or event.ts
        self.name, self.plan_hash = body.name or self.name, body.plan_hash or self.plan_hash
        self.deadline_s = body.deadline_s if body.deadline_s is not None else self.deadline_s
        self.workspace = body.workspace or self.workspace
        self.labels = dict(event.labels) or self.labels

    def _facts_found(self, event: Event) -> None:
        assert isinstance(event.body, bodies.FactsFound)
        self.facts = event.body.facts or {}

    def _preflight_failed(self, event: Event) -> None:
        body = event.body
        assert isinstance(body, bodies.PreflightFailed)
        item = body.item or "preflight"
        self._add_error(event.key or item, body, item, body.level or "critical")

    def _secret_found(self, event: Event) -> None:
        assert isinstance(event.body, bodies.SecretFound)
        self._add_error(f"secret in {event.body.item}", event.body, event.body.item, event.body.level)

    def _step_started(self, event: Event) -> None:
        step = self._step(event)
        step.state, step.started = "running", event.ts

    def _step_finished(self, event: Event) -> None:
        body, step = event.body, self._step(event)
        assert isinstance(body, bodies.StepFinished)
        step.state, step.ended, step.duration_s = "done", event.ts, body.duration_s
        step.counts = {"ok": body.ok or 0, "failed": body.failed or 0, "skipped": body.skipped or 0}

    def _step_failed(self, event: Event) -> None:
        body, step = event.body, self._step(event)
        assert isinstance(body, bodies.StepFailed)
        step.state, step.ended = "failed", event.ts
        self._add_error(body.step, body, body.step, body.level)

    def _step(self, event: Event) -> StepState:
        name = str(event.data.get("step"))
        if name not in self.steps and len(self.steps) >= MAX_STEPS:
            raise ParseError(f"the run tells of more than {MAX_STEPS} steps")
        return self.steps.setdefault(name, StepState())

    def _warning(self, event: Event) -> None:
        assert isinstance(event.body, bodies.Warned)
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(event.body.message)

    def _run_usable(self, event: Event) -> None:
        assert isinstance(event.body, bodies.RunUsable)
        self.state, self.usable_after_s = "usable", event.body.after_s

    def _run_finished(self, event: Event) -> None:
        body = event.body
        assert isinstance(body, bodies.RunFinished)
        self.state = self.verdict = body.verdict
        self.duration_s, self.bytes_downloaded = body.duration_s, body.bytes_downloaded


_FOLDS: Mapping[str, Callable[[RunState, Event], None]] = {
    "run_started": RunState._run_started,
    "facts_found": RunState._facts_found,
    "preflight_failed": RunState._preflight_failed,
    "secret_found": RunState._secret_found,
    "step_started": RunState._step_started,
    "step_finished": RunState._step_finished,
    "step_failed": RunState._step_failed,
    "warning": RunState._warning,
    "run_usable": RunState._run_usable,
    "run_finished": RunState._run_finished,
}


def _shared(value: object) -> object:
    """*value*; equal short texts, such as a level, a class or a host's address, are kept once."""
    return sys.intern(value) if isinstance(value, str) and len(value) <= 64 else value


_KEPT_FIELDS: Dict[Type[Body], Tuple[Tuple[str, str], ...]] = {}


def _kept_fields(body: Type[Body]) -> Tuple[Tuple[str, str], ...]:
    """The fields of *body* that an item keeps: their keys in JSON, and their names here."""
    if body not in _KEPT_FIELDS:
        _KEPT_FIELDS[body] = tuple(
            (str(each.metadata.get("alias", each.name)), each.name)
            for each in fields(body)
            if each.name != "item"
        )
    return _KEPT_FIELDS[body]
