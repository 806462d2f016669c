"""What an instance says of its own end, and how that is put off. Pure, shared by both halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .parsing import bounded
from .plan_parts import MAX_WAIT_S, seconds_field
from .version import FORMAT, RUN_ID_PATTERN

IDLE, MAX = "idle", "max"
"""Why an instance is ended."""
WAITS, HELD, ENDING, ENDED = "waits", "held", "ending", "ended"
"""It goes on; its end is due and results hold it back; the hook is run, perhaps again; the hook has succeeded."""
SOON_S = 600.0
"""So long before the end by `max` it is told."""


def _left() -> "Optional[float]":
    found: "Optional[float]" = bounded(None, low=-MAX_WAIT_S, high=2 * MAX_WAIT_S)
    return found


@dataclass(frozen=True)
class LifetimeTold:
    """When the instance is ended, as it says now."""

    run: str = bounded("", max_chars=64)
    """The run whose profile says so."""
    state: str = bounded(WAITS, one_of=(WAITS, HELD, ENDING, ENDED))
    is_running: bool = True
    """What measures the time lives."""
    busy: str = bounded("", max_chars=1024)
    """What keeps it from being idle; empty: nothing."""
    idle_s: float = bounded(0.0, low=0, high=MAX_WAIT_S)
    """How long nothing went on."""
    idle_in_s: Optional[float] = _left()
    """Until it is ended for that, if nothing happens; None: never, or not as long as it is busy."""
    max_in_s: Optional[float] = _left()
    """Until it is ended whatever happens; None: never."""
    reason: str = bounded("", max_chars=64)
    """Why its end is due; empty: it is not."""
    not_home: int = bounded(0, low=0)
    """So many finished results hold its end back."""
    held_in_s: Optional[float] = _left()
    """Until it is ended although they are not home."""
    keep_s: Optional[float] = _left()
    """So long results that are not home may hold its end back, whatever the reason; None: it has none."""
    attempts: int = bounded(0, low=0)
    """How often the hook was run."""
    said: str = bounded("", max_chars=4096)
    """What became of it last."""

    @property
    def ends_in_s(self) -> Optional[float]:
        """Until it is ended, as it is now; None: nobody can say."""
        return min((left for left in (self.idle_in_s, self.max_in_s) if left is not None), default=None)


@dataclass(frozen=True)
class ExtendRequest:
    """Put the end of an instance off: `max` comes `for_s` later, and `idle` does not end it in that time."""

    for_s: float = seconds_field(...)
    run: Optional[str] = bounded(None, pattern=RUN_ID_PATTERN)
    workspace: Optional[str] = bounded(None, max_chars=4096)


@dataclass(frozen=True)
class ExtendAnswer:
    """When it is ended now."""

    lifetime: LifetimeTold = LifetimeTold()
    format: int = FORMAT
