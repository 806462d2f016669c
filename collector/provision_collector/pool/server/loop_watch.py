"""How late the event loop was: whoever keeps it busy holds up every run and every client of the server."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

LOOK_EVERY_S = 0.1
LATELY_S = 60.0
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper ends of the histogram's classes; the last class has none."""


@dataclass
class LoopWatch:
    """Looks ten times a second how late the event loop is. `run` does so until it is cancelled."""

    clock: Callable[[], float] = time.monotonic
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    """How often it was late by at most that of `BOUNDS_S`, each class for itself, since this process began."""
    late_s: float = 0.0
    """All of it together."""
    _worst: deque[tuple[float, float]] = field(default_factory=deque)
    """When it was late, and by how much: the times after which it was never as late again."""

    async def run(self) -> None:
        """Look until this is cancelled."""
        while True:
            due = self.clock() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            self.note(max(self.clock() - due, 0.0))

    def note(self, late_s: float) -> None:
        """It was late by so many seconds now."""
        self.counts[bisect_left(BOUNDS_S, late_s)] += 1
        self.late_s += late_s
        while self._worst and self._worst[-1][1] <= late_s:
            self._worst.pop()
        self._worst.append((self.clock(), late_s))
        self._forget()

    @property
    def lately_s(self) -> float:
        """The latest it was within the last minute, in seconds."""
        self._forget()
        return self._worst[0][1] if self._worst else 0.0

    def _forget(self) -> None:
        while self._worst and self.clock() - self._worst[0][0] > LATELY_S:
            self._worst.popleft()
