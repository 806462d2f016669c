"""How far a `collect` is, as one line on a terminal: lines and bytes that have come, how fast, since when it is quiet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .output import ticker

EVERY_S = 0.5
SPEED_OVER_S = 5.0
QUIET_FROM_S = 5.0
CHUNK_BYTES = 1 << 20


class Arrivals:
    """Counts what has come into *mirrors*: only what is new is read."""

    def __init__(self, mirrors: Sequence[Path], *, timeout_s: float) -> None:
        self._read = dict.fromkeys(mirrors, 0)
        self._timeout_s = timeout_s
        self._began = self._grew = time.monotonic()
        self._marks: list[tuple[float, int]] = [(self._began, 0)]
        self.lines = 0
        self.bytes = 0

    def look(self) -> None:
        """Read what is new. May block."""
        before = self.bytes
        for path, at in self._read.items():
            with suppress(OSError), path.open("rb") as file:  # it is made when the first contact is
                file.seek(at)
                while data := file.read(CHUNK_BYTES):
                    self.lines += data.count(b"\n")
                    self._read[path] += len(data)
        self.bytes = sum(self._read.values())
        now = time.monotonic()
        if self.bytes != before:
            self._grew = now
        self._marks = [*(mark for mark in self._marks if mark[0] > now - SPEED_OVER_S), (now, self.bytes)]

    def words(self) -> str:
        """The line."""
        from ..console import units

        now = time.monotonic()
        (first, then), (last, here) = self._marks[0], self._marks[-1]
        rate = (here - then) / (last - first) if last > first else 0.0
        quiet_s = now - self._grew
        moves = f"quiet for {units.waiting(quiet_s)}" if quiet_s >= QUIET_FROM_S else units.speed(rate)
        left = units.coarse(max(self._timeout_s - (now - self._began), 0.0))
        count = f"{self.lines:,} line{'s' if self.lines != 1 else ''}"
        return f"{count}, {units.size(self.bytes)}  {moves}  limit in {left}"


async def keep_ticking(mirrors: Sequence[Path], *, timeout_s: float) -> None:
    """Show it until cancelled, then take it away."""
    arrivals = Arrivals(mirrors, timeout_s=timeout_s)
    try:
        while True:
            await asyncio.to_thread(arrivals.look)
            ticker(arrivals.words())
            await asyncio.sleep(EVERY_S)
    finally:
        ticker("")
