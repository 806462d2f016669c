"""Which servers cannot be reached now, and whose turn it is to try them again.

All that wait for one server share its waits: one of them asks, the others wait for what comes of it. They give up
together, when it has been tried for as long as the run is patient.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Protocol, Sequence, Tuple, TypeVar

from ..contract import retry
from ..contract.failures import Failure

PATIENCE_S = 60.0
FIRST_WAIT_S, WIDEST_WAIT_S = 1.0, 15.0
"""The widest first wait, and the widest ever."""
ASK_MOST_S = 90.0
"""Whoever has its turn for so long without a word has lost it."""
UNCARED_S = 5.0
LOOK_AGAIN_S = 0.1

CLASSES = ("unreachable", "network")
"""What a server that cannot be reached fails with."""


@dataclass
class _Outage:
    began_at: float
    failed_at: float
    failures: int
    next_at: float
    last: Failure
    is_asked: bool = False
    """Somebody tries it right now."""


class Place(Protocol):
    """Where something may be had. `places`: the servers on the way there, ``host:port``."""

    failure: Optional[Failure]
    """Why it is not tried any more."""

    @property
    def places(self) -> Tuple[str, ...]: ...


P = TypeVar("P", bound=Place)


class Outages:
    """The servers that a run cannot reach. Safe to use from any thread.

    Args:
        patience_s: How long a server that cannot be reached is tried.
    """

    def __init__(
        self,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        rand: retry.Rand = random.random,
    ) -> None:
        self.patience_s = patience_s
        self._clock = clock
        self._rand = rand
        self._outages: Dict[str, _Outage] = {}
        self._lock = threading.Lock()

    def note(self, place: str, failure: Failure, *, failures: int = 1) -> float:
        """*place* could not be reached.

        Args:
            failures: How often whoever says so has failed there in a row: one server may turn away one file only.

        Returns:
            The seconds until it is tried again.
        """
        with self._lock:
            now = self._clock()
            known = self._outages.get(place)
            if known is not None and not known.is_asked and now < known.next_at:
                known.last = failure  # it was asked at the same time as the one that counted
                return known.next_at - now
            count = max(failures, known.failures + 1 if known else 1)
            began_at = known.began_at if known else now
            left_s = began_at + self.patience_s - now
            # the last try is at the very end; after it all may see that it is over
            wait_s = min(_wait_s(count, self._rand), left_s) if left_s > 0 else WIDEST_WAIT_S
            self._outages[place] = _Outage(began_at, now, count, now + wait_s, failure)
            return wait_s

    def end(self, *places: str) -> None:
        """*places* have answered."""
        with self._lock:
            for place in places:
                self._outages.pop(place, None)

    def let_go(self, *places: str) -> None:
        """Whoever had its turn at *places* has not asked: somebody else may, at once."""
        with self._lock:
            for known in self._of(places):
                if known.is_asked:
                    known.is_asked, known.next_at = False, self._clock()

    def failures(self, *places: str) -> int:
        """How often the worst of *places* was tried in vain."""
        with self._lock:
            return max((known.failures for known in self._of(places)), default=0)

    def left_s(self, place: str) -> float:
        """How much longer *place*, which cannot be reached, is tried; 0 or less: no longer."""
        with self._lock:
            known = self._outages.get(place)
            return self.patience_s if known is None else known.began_at + self.patience_s - self._clock()

    def last(self, *places: str) -> Optional[Failure]:
        """Why one of *places* cannot be reached; None when they can, as far as is known."""
        with self._lock:
            return next((known.last for known in self._of(places)), None)

    def first(self, wanted: Sequence[P], pause: Callable[[float], object]) -> Optional[P]:
        """The first of *wanted* that may be tried now, those that nothing is known against before the others.

        What comes of it must be told: `note`, `end` or `let_go`.

        Args:
            wanted: Those with a `failure` are passed over; one that was tried long enough gets one.
            pause: Waits so many seconds, and raises when nobody wants the result any more.

        Returns:
            None when none is left.
        """
        while True:
            left = sorted(
                (each for each in wanted if each.failure is None),
                key=lambda each: self.last(*each.places) is not None,
            )
            for each in left:
                if self._is_over(each.places):
                    each.failure = self._given_up(each.places)
                elif self.may_try(*each.places):
                    return each
            if all(each.failure is not None for each in left):
                return None
            pause(LOOK_AGAIN_S)

    def may_try(self, *places: str) -> bool:
        """True when nothing is known against *places*, or it is the caller's turn to ask them."""
        with self._lock:
            now = self._clock()
            known = self._of(places)
            if any(now < each.next_at for each in known):
                return False
            for each in known:
                if now - each.next_at > UNCARED_S:
                    each.began_at = now  # nobody has waited for it: patience begins anew
                each.is_asked, each.next_at = True, now + ASK_MOST_S
            return True

    def _is_over(self, places: Sequence[str]) -> bool:
        """Has one of *places* been tried for long enough, the last time just now?"""
        with self._lock:
            now = self._clock()
            return any(
                known.failed_at - known.began_at >= self.patience_s
                and not known.is_asked
                and now < known.next_at
                for known in self._of(places)
            )

    def _given_up(self, places: Sequence[str]) -> Failure:
        with self._lock:
            known = max(self._of(places), key=lambda each: each.failed_at - each.began_at)
            return tried(known.last, known.failed_at - known.began_at)

    def _of(self, places: Sequence[str]) -> List[_Outage]:
        return [self._outages[place] for place in places if place in self._outages]


class PatientAttempts(retry.Attempts):
    """Counts the failures of one piece of work; those of a server that cannot be reached by time, not by number.

    Args:
        place: What all works have in common that share their patience; tell `Outages.end` when it has answered.
    """

    def __init__(self, schedule: retry.Schedule, outages: Outages, place: str) -> None:
        super().__init__(schedule)
        self._outages = outages
        self._place = place

    def after_failure(self, error: Exception) -> Optional[float]:
        wait_s = super().after_failure(error)
        if not isinstance(error, Failure) or error.class_ not in CLASSES:
            self._outages.end(self._place)
            return wait_s
        self._outages.note(self._place, error)
        left_s = self._outages.left_s(self._place)
        return wait_s if left_s <= 0 else min(wait_s or _wait_s(self.failures), WIDEST_WAIT_S, left_s)


def _wait_s(failures: int, rand: retry.Rand = random.random) -> float:
    return retry.equal_jitter_s(failures, base_s=FIRST_WAIT_S, cap_s=WIDEST_WAIT_S, rand=rand)


def tried(failure: Failure, for_s: float) -> Failure:
    """*failure*, with how long it was tried in its message."""
    return failure if for_s < 1 else failure.saying(f"{failure.message} (tried for {for_s:.0f} s)")
