"""How many connections and files at once: more while that makes the whole faster, back when it does not. Pure."""

from __future__ import annotations

import os
import time
from typing import Callable, Optional, Tuple

FILES, FILES_MOST = 4, 8
PER_FILE, PER_FILE_MOST = 8, 16
CONNECTIONS_MOST = 64
GROWTH = 1.5
WORTH_IT = 1.10
"""More connections are kept if they make the whole this much faster."""
FIRST_WINDOW_S, WINDOW_S, AGAIN_AFTER_S = 0.5, 1.0, 30.0
SETTLE_S = 0.25
"""New connections must have been opened before their number can be judged."""
BUSY_CPU = 0.8


class Tuner:
    """Watches the throughput and moves `files`, `per_file` and `connections` within the caller's limits.

    Args:
        files: The most files at once; None starts with 4 and may grow.
        connections: The most connections per file; None starts with 8 and may grow.
        cpu_share: How busy the machine is, 0 to 1, since the last call.
    """

    def __init__(
        self,
        files: Optional[int],
        connections: Optional[int],
        *,
        cpu_share: Optional[Callable[[], float]] = None,
    ) -> None:
        self._files_most = files or FILES_MOST
        self._per_file_most = connections or PER_FILE_MOST
        self._cpu_share = cpu_share or CpuShare()
        self.files = min(FILES, self._files_most) if files is None else files
        self.per_file = min(PER_FILE, self._per_file_most)
        self.connections = min(self.files * self.per_file, CONNECTIONS_MOST)
        self._window: Optional[Tuple[float, int]] = None
        self._window_s = FIRST_WINDOW_S
        self._before: Optional[Tuple[float, int, int, int]] = None
        """Speed and settings before the last growth."""
        self._rest_until = 0.0
        self._settled_at = 0.0

    def tick(self, now: float, bytes_landed: int, *, is_full: bool) -> bool:
        """Take note of the total of bytes; True when more connections are wanted than before.

        Args:
            is_full: All connections that may be open are; else their number is not what limits the speed.
        """
        if self._window is None or not is_full or now < self._settled_at:
            self._window = (now, bytes_landed)
            return False
        began_at, began_bytes = self._window
        if now - began_at < self._window_s:
            return False
        speed = (bytes_landed - began_bytes) / (now - began_at)
        self._window = (now, bytes_landed)
        if now < self._rest_until:
            return False
        if self._before is not None and speed < self._before[0] * WORTH_IT:
            self._go_back(now)
            return False
        return self._grow(speed, now)

    def _grow(self, speed: float, now: float) -> bool:
        before = (speed, self.files, self.per_file, self.connections)
        if speed <= 0 or self._cpu_share() > BUSY_CPU:
            return False
        self.per_file = min(int(self.per_file * GROWTH), self._per_file_most)
        self.files = min(int(self.files * GROWTH), self._files_most)
        most = min(CONNECTIONS_MOST, self._files_most * self._per_file_most)
        self.connections = min(int(self.connections * GROWTH), most)
        self._before = before
        self._window_s, self._settled_at = WINDOW_S, now + SETTLE_S
        return self.connections > before[3]

    def _go_back(self, now: float) -> None:
        assert self._before is not None
        _, self.files, self.per_file, self.connections = self._before
        self._before = None
        self._rest_until = now + AGAIN_AFTER_S


class CpuShare:
    """How busy the machine's cores are between two calls: with this process's work, or with all work together."""

    def __init__(self) -> None:
        self._cores = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._last = (time.monotonic(), time.process_time())
        self._last_ticks = _machine_ticks()

    def __call__(self) -> float:
        (at, used), (busy, total) = self._last, self._last_ticks
        self._last, self._last_ticks = (time.monotonic(), time.process_time()), _machine_ticks()
        own = (self._last[1] - used) / max(self._last[0] - at, 0.01) / self._cores
        return max(own, (self._last_ticks[0] - busy) / max(self._last_ticks[1] - total, 1))


def _machine_ticks() -> Tuple[int, int]:
    """Busy and total time of all cores since the boot; zeros where the kernel does not say."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(number) for number in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
