"""What the state of a run is made of: its items, its steps, its errors, and their totals. Pure."""

from __future__ import annotations

from typing import Dict, Iterable, NamedTuple, Optional

from .status_json import StepTold

SETTLED = ("done", "failed", "skipped")


class ItemState:
    """What is known of one item. Only what was told is kept: there may be a hundred thousand of them."""

    __slots__ = ("facts", "item", "key", "state")

    def __init__(self, key: str, item: str) -> None:
        self.key = key
        self.item = item
        """Its final path or its name, as people see it."""
        self.state = "queued"
        self.facts: Dict[str, object] = {}

    def text(self, name: str) -> str:
        """The fact *name* as text; empty where it is not known."""
        value = self.facts.get(name)
        return "" if value is None else str(value)

    def number(self, name: str) -> float:
        """The fact *name* as a number; 0 where it is not known."""
        value = self.facts.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0

    def count(self, name: str) -> Optional[int]:
        """The fact *name* as a whole number; None where it is not known."""
        value = self.facts.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def to_json(self) -> Dict[str, object]:
        """As JSON values."""
        return {"state": self.state, "item": self.item, **self.facts}


class StepState:
    """What is known of one step; `counts` has `ok failed skipped` once it ended."""

    __slots__ = ("counts", "duration_s", "ended", "started", "state")

    def __init__(self) -> None:
        self.state = "queued"
        self.started: Optional[str] = None
        self.ended: Optional[str] = None
        self.duration_s: Optional[float] = None
        self.counts: Dict[str, int] = {}

    @classmethod
    def of(cls, told: StepTold) -> "StepState":
        """What was told of it as JSON."""
        step = cls()
        step.state, step.started, step.ended = told.state, told.started, told.ended
        step.duration_s = told.duration_s
        counts = {"ok": told.ok, "failed": told.failed, "skipped": told.skipped}
        step.counts = {name: count for name, count in counts.items() if count is not None}
        return step

    def to_json(self) -> Dict[str, object]:
        """As JSON values."""
        times = {"started": self.started, "ended": self.ended, "duration_s": self.duration_s}
        return {
            "state": self.state,
            **{name: value for name, value in times.items() if value is not None},
            **self.counts,
        }


class ItemError(NamedTuple):
    """Why an item, a step or the run failed; `case` and `about` as in `cases`."""

    class_: str
    item: str
    level: Optional[str]
    message: str
    hint: Optional[str]
    retriable: bool
    case: Optional[str] = None
    about: Optional[Dict[str, str]] = None

    def to_json(self) -> Dict[str, object]:
        """As JSON values."""
        values = {"class" if name == "class_" else name: value for name, value in self._asdict().items()}
        return {name: value for name, value in values.items() if value or name not in ("case", "about")}


class Totals(NamedTuple):
    """All downloads together."""

    bytes_per_s: float
    landed_bytes: int
    left_bytes: int

    @classmethod
    def of(cls, downloads: Iterable[ItemState]) -> "Totals":
        """The sum over *downloads*."""
        speed, landed, left = 0.0, 0, 0
        for item in downloads:
            here = int(item.number("bytes"))
            landed += here
            if item.state == "running":
                speed += item.number("bytes_per_s")
            if item.state not in SETTLED:
                left += max(int(item.number("total_bytes")) - here, 0)
        return cls(speed, landed, left)
