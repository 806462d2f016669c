"""How a file is getting on: what it tells others, at most twice a second, and whether it has stalled."""

from __future__ import annotations

import time
from collections import deque
from typing import Callable, Deque, Optional, Tuple

from ..contract.plan_parts import Stall
from ..run.context import Report

SPEAK_EVERY_S = 0.5
SPEED_WINDOW_S = 3.0


class Progress:
    """Is told of every look at the file's landed bytes. Used by the file's driver only."""

    def __init__(self, report: Report, stall: Stall, clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self._stall = stall
        self._clock = clock
        self._spoke_at = 0.0
        self._total: Optional[int] = None
        self._window: Deque[Tuple[float, int]] = deque()
        self._window_began_at = 0.0
        self.began_at = 0.0
        """When this attempt began."""
        self._began_with = 0
        self._landed = 0

    def begin(self, landed: int, total: Optional[int]) -> None:
        """An attempt begins with *landed* bytes there of *total*."""
        self.began_at = self._clock()
        self._began_with = self._landed = landed
        self._total = total
        self.restart_window()

    def restart_window(self) -> None:
        """What was until now says nothing about the speed."""
        self._window.clear()
        self._window_began_at = self._clock()
        self._window.append((self._window_began_at, self._landed))

    def note(self, landed: int) -> None:
        """*landed* bytes are there now."""
        now = self._clock()
        self._landed = landed
        self._window.append((now, landed))
        while now - self._window[0][0] > max(self._stall.for_s, SPEED_WINDOW_S) and len(self._window) > 2:
            self._window.popleft()
        if self._may_speak(now):
            self._say(self.speed(SPEED_WINDOW_S))

    def finish(self, landed: int) -> None:
        """All is there: the last word on it."""
        self._landed = landed
        self._say(self.average())

    def speed(self, window_s: float) -> float:
        """Bytes per second over the last *window_s*, or as far back as is known."""
        now = self._clock()
        first = next((entry for entry in self._window if now - entry[0] <= window_s), None)
        if first is None:
            return 0.0
        return (self._landed - first[1]) / max(now - first[0], 0.05)

    def average(self) -> float:
        """Bytes per second since the attempt began."""
        return (self._landed - self._began_with) / max(self._clock() - self.began_at, 0.05)

    def stalled(self, below_bytes_per_s: float) -> Optional[float]:
        """The speed over the stall's window if that is too slow; None while all is well."""
        if self._clock() - self._window_began_at < self._stall.for_s:
            return None
        speed = self.speed(self._stall.for_s)
        return speed if speed < below_bytes_per_s else None

    def is_moving(self) -> bool:
        """Do bytes land above the stall's floor?"""
        return self.speed(self._stall.for_s) >= self._stall.below_bytes_per_s

    def _may_speak(self, now: float) -> bool:
        return now - self._spoke_at >= SPEAK_EVERY_S

    def _say(self, speed: float) -> None:
        self._spoke_at = self._clock()
        self._report("progress", bytes=self._landed, total_bytes=self._total, bytes_per_s=round(speed))
