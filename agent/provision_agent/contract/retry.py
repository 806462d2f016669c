"""One schedule of attempts: how many, with which waits between them, and until when; driven by a thread or by asyncio.

Waits are exponential with full jitter and a cap. The schedule is pure: with a given `rand` it is deterministic.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Awaitable, Callable, Optional, Type, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
Rand = Callable[[], float]
"""A number in [0, 1)."""


def full_jitter_s(
    failures: int, *, base_s: float = 0.5, cap_s: float = 30.0, rand: Rand = random.random
) -> float:
    """How long to wait after the *failures*-th failure in a row.

    Args:
        failures: Failures so far without progress, from 1.
        base_s: The widest wait after the first failure.
        cap_s: The widest wait ever.
        rand: A number in [0, 1).

    Returns:
        Seconds, uniform in ``[0, min(cap_s, base_s * 2**(failures - 1)))``.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (the "full jitter" variant).
    """
    return rand() * _widest_s(failures, base_s, cap_s)


def equal_jitter_s(failures: int, *, base_s: float, cap_s: float, rand: Rand = random.random) -> float:
    """As `full_jitter_s`, and at least half of the widest wait: for what must not be asked again at once (same source)."""
    return (0.5 + rand() / 2) * _widest_s(failures, base_s, cap_s)


def _widest_s(failures: int, base_s: float, cap_s: float) -> float:
    return min(cap_s, base_s * 2.0 ** min(max(failures - 1, 0), 32))


@dataclass(frozen=True)
class Schedule:
    """When to try again, and when to give up.

    Args:
        attempts: How many in all; None: only time ends it.
        base_s: The widest wait after the first failure; it doubles with each further one.
        cap_s: The widest wait ever.
        least_s: Added to every wait.
        within_s: No attempt begins later than this after the first one; None: no such limit.
    """

    attempts: Optional[int]
    base_s: float = 0.5
    cap_s: float = 30.0
    least_s: float = 0.0
    within_s: Optional[float] = None

    def wait_s(
        self,
        failures: int,
        *,
        passed_s: float = 0.0,
        asked_s: Optional[float] = None,
        rand: Rand = random.random,
    ) -> Optional[float]:
        """How long to wait after the *failures*-th failure (from 1); None: give up.

        Args:
            passed_s: Since the first attempt began.
            asked_s: The wait that the other side asked for, instead of the schedule's own.
        """
        left_s = None if self.within_s is None else self.within_s - passed_s
        if (self.attempts is not None and failures >= self.attempts) or (left_s is not None and left_s <= 0):
            return None
        jitter_s = full_jitter_s(failures, base_s=self.base_s, cap_s=self.cap_s, rand=rand)
        wait_s = self.least_s + jitter_s if asked_s is None else asked_s
        return wait_s if left_s is None else min(wait_s, left_s)


def asked_wait_s(error: Exception) -> Optional[float]:
    """The wait that the other side asked for with *error*, its `wait_s`; None: it asked for none."""
    wait_s: Optional[float] = getattr(error, "wait_s", None)
    return wait_s


class Attempts:
    """Counts the failures of one piece of work against its schedule.

    Args:
        asked_s: The wait, in seconds, that an error asks for in place of the schedule's own; None: it asks for none.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        asked_s: Callable[[Exception], Optional[float]] = asked_wait_s,
        clock: Callable[[], float] = time.monotonic,
        rand: Rand = random.random,
    ) -> None:
        self._schedule = schedule
        self._asked_s = asked_s
        self._clock = clock
        self._rand = rand
        self._began_at = clock()
        self.failures = 0

    def after_failure(self, error: Exception) -> Optional[float]:
        """Count *error* as one more failure: how many seconds to wait now; None: give up."""
        self.failures += 1
        passed_s, asked_s = self._clock() - self._began_at, self._asked_s(error)
        return self._schedule.wait_s(self.failures, passed_s=passed_s, asked_s=asked_s, rand=self._rand)


def call(
    work: Callable[[], T],
    attempts: Attempts,
    *,
    errors: Type[E],
    wait: Callable[[float], bool],
    may_help: Callable[[E], bool],
    before_wait: Callable[[E, float], None],
) -> T:
    """The result of *work*, tried again while that may help. For a thread.

    Args:
        errors: What counts as a failure; anything else passes through. See `Attempts.after_failure`.
        wait: Waits so many seconds, or until nobody wants the result any more: True then.
        may_help: May the same again do better after this error?
        before_wait: Is told the error and the seconds until the next attempt.

    Raises:
        Exception: the last error, one of *errors*.
    """
    while True:
        try:
            return work()
        except errors as error:
            wait_s = attempts.after_failure(error) if may_help(error) else None
            if wait_s is None:
                raise
            before_wait(error, wait_s)
            if wait(wait_s):
                raise


async def call_async(
    work: Callable[[], Awaitable[T]],
    attempts: Attempts,
    *,
    errors: Type[E],
    may_help: Callable[[E], bool],
    before_wait: Callable[[E, float], None],
    sleep: Optional[Callable[[float], Awaitable[None]]] = None,
) -> T:
    """As `call`, for asyncio; whoever cancels the task ends the wait.

    Args:
        sleep: Waits so many seconds; None: `asyncio.sleep`.
    """
    import asyncio  # only here: the agent has no loop, and starts faster without it

    while True:
        try:
            return await work()
        except errors as error:
            wait_s = attempts.after_failure(error) if may_help(error) else None
            if wait_s is None:
                raise
            before_wait(error, wait_s)
            await (sleep or asyncio.sleep)(wait_s)
