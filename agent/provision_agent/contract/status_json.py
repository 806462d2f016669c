"""The JSON of a run's state, as `status.json` and the answer to `status` have it: types and bounds of what is read. Pure."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields, make_dataclass
from typing import Dict, Optional, Tuple, Type

from . import event_bodies
from .cases import MAX_PARTICULARS
from .event_bodies import AGENT_VERDICTS, MAX_KEY_CHARS, Body
from .events import EVENTS
from .parsing import bounded
from .version import RUN_ID_PATTERN

MAX_ITEMS = 100_000
"""Of one run, all groups together."""
MAX_STEPS = 1000


@dataclass(frozen=True)
class StepTold:
    """One step."""

    state: str = bounded("queued", max_chars=64)
    started: Optional[str] = bounded(None, max_chars=40)
    ended: Optional[str] = bounded(None, max_chars=40)
    duration_s: Optional[float] = bounded(None, low=0)
    ok: Optional[int] = bounded(None, low=0)
    failed: Optional[int] = bounded(None, low=0)
    skipped: Optional[int] = bounded(None, low=0)


@dataclass(frozen=True)
class ErrorTold:
    """Why an item, a step or the run failed."""

    item: str = bounded(max_chars=MAX_KEY_CHARS)
    class_: Optional[str] = bounded(None, max_chars=256, alias="class")
    level: Optional[str] = bounded(None, max_chars=256)
    message: Optional[str] = None
    hint: Optional[str] = None
    case: Optional[str] = bounded(None, max_chars=64)
    about: Optional[Dict[str, str]] = bounded(None, max_entries=MAX_PARTICULARS)
    retriable: Optional[bool] = None
    key: Optional[str] = bounded(None, max_chars=MAX_KEY_CHARS)


@dataclass(frozen=True)
class StateTold:
    """A run, without its items: those are of types that their group knows."""

    run: str = bounded(pattern=RUN_ID_PATTERN)
    state: str = bounded("accepted", max_chars=64)
    seq: int = bounded(0, low=0)
    started: Optional[str] = bounded(None, max_chars=40)
    updated: Optional[str] = bounded(None, max_chars=40)
    name: Optional[str] = bounded(None, max_chars=256)
    plan_hash: Optional[str] = bounded(None, max_chars=256)
    deadline_s: Optional[float] = bounded(None, low=0)
    labels: Optional[Dict[str, str]] = bounded(None, max_entries=256, max_chars=8192)
    workspace: Optional[str] = bounded(None, max_chars=8192)
    facts: Optional[Dict[str, object]] = None
    steps: Dict[str, StepTold] = bounded(factory=dict, max_entries=MAX_STEPS, max_chars=256)
    errors: Tuple[ErrorTold, ...] = bounded((), max_entries=MAX_ITEMS)
    warnings: Tuple[str, ...] = bounded((), max_entries=MAX_ITEMS)
    usable_after_s: Optional[float] = bounded(None, low=0)
    verdict: Optional[str] = bounded(None, one_of=AGENT_VERDICTS)
    duration_s: Optional[float] = bounded(None, low=0)
    bytes_downloaded: Optional[int] = bounded(None, low=0)


_ITEM_TYPES: Dict[str, Type[Body]] = {}


def type_of_items(group: str) -> Type[Body]:
    """All that an item of *group* keeps of its events, as one dataclass; all of it may be left out."""
    if group not in _ITEM_TYPES:
        bodies = [kind.body for kind in EVENTS.values() if kind.group == group]
        every = [each for body in bodies for each in fields(body)]
        named = {each.name: each for each in sorted(every, key=_is_strict)}
        made = make_dataclass(
            "ItemTold",
            [(name, each.type, field(default=None, metadata=each.metadata)) for name, each in named.items()],
            bases=(Body,),
            frozen=True,
        )
        made.__module__ = event_bodies.__name__  # where the names in its annotations mean something
        _ITEM_TYPES[group] = made
    return _ITEM_TYPES[group]


def _is_strict(each: "Field[object]") -> bool:
    """Whether a field says in words of its own what belongs there; of two fields with one name, that one counts."""
    return each.metadata["bounds"].check is not None
