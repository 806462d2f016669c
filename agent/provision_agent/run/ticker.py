"""The passing of time in a run: its deadline, a line now and then, and an early word when time will not do."""

from __future__ import annotations

import threading
import time
from typing import Callable

from ..contract.status import RunState
from . import log_lines
from .deadline import RunClock
from .journal import Journal

TICK_S = 1.0
SUMMARY_EVERY_S = 10.0
RATE_SETTLES_AFTER_S = 15.0
"""Before this, the speed of the downloads says nothing about when they will end."""


class Pulse:
    """Calls *is_over* every second until it is true, and reports on the way."""

    def __init__(self, journal: Journal, clock: RunClock, is_over: Callable[[], bool]) -> None:
        self._journal = journal
        self._clock = clock
        self._is_over = is_over
        self._stopped = threading.Event()
        self._said_at = time.monotonic()
        self._is_warned = False
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def stop(self) -> None:
        """Report nothing more."""
        self._stopped.set()

    def _beat(self) -> None:
        while (
            not self._stopped.wait(min(TICK_S, max(self._clock.remaining_s(), 0.0))) and not self._is_over()
        ):
            speed, landed_bytes, left_bytes = self._journal.look(RunState.totals)
            if time.monotonic() - self._said_at >= SUMMARY_EVERY_S and left_bytes:
                self._said_at = time.monotonic()
                landed, left, rate = (log_lines.size_text(size) for size in (landed_bytes, left_bytes, speed))
                self._journal.say(log_lines.Lines([f"⬇️ {landed} landed, {left} to come, {rate}/s"], []))
            if speed and not self._is_warned and self._clock.elapsed_s() > RATE_SETTLES_AFTER_S:
                self._warn(needed_s=left_bytes / speed)

    def _warn(self, *, needed_s: float) -> None:
        remaining_s = self._clock.remaining_s()
        if needed_s <= remaining_s:
            return
        self._is_warned = True
        self._journal.event(
            "deadline_at_risk",
            remaining_s=round(remaining_s, 1),
            needed_s=round(needed_s, 1),
            timeout_s=round(self._clock.elapsed_s() + 1.2 * needed_s),
        )
