"""What is told of outputs while they come home: how many, how fast, which was the last, and each that cannot come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from provision_agent.contract.failures import Failure

from ..instance import Emit

EVERY_S = 0.5
OFTEN, SELDOM = 240, 2000
"""After so many events they come every 5 seconds, and then every minute: a run may go on for days."""
MOST_FAILED = 100
"""So many files that cannot come are told by an event of their own; the outcome counts all."""


class OutputsTold:
    """Counts what comes home, and tells of it."""

    def __init__(self, emit: Emit, left: Callable[[], int]) -> None:
        self._emit = emit
        self._left = left
        self._path = ""
        self._sizes: dict[tuple[str, str], int] = {}
        self._count = 0
        self._failed: dict[str, str] = {}
        self._moved_bytes = self._told_moved_bytes = 0
        self._told_at = time.monotonic()
        self._is_news = False
        self.bytes = 0

    @property
    def files(self) -> int:
        """So many are here."""
        return len(self._sizes)

    def home(self, remote: tuple[str, str], path: str, size_bytes: int) -> None:
        """A file is here.

        Args:
            remote: What it is there: its item, and its path in it.
            path: As this machine calls it.
        """
        self.bytes += size_bytes - self._sizes.get(remote, 0)
        self._sizes[remote] = size_bytes
        self._path, self._is_news = path, True

    def moved(self, count: int) -> None:
        """So many bytes came."""
        self._moved_bytes += count
        self._is_news = True

    def failed(self, path: str, failure: Failure) -> None:
        """A file cannot come; the same is said once."""
        if self._failed.get(path) == failure.message or len(self._failed) >= MOST_FAILED:
            return
        self._failed[path] = failure.message
        self._emit("output_failed", item=path, **failure.as_fields())

    async def tell(self) -> None:
        """Tell what is new, for as long as it is not cancelled."""
        while True:
            await asyncio.sleep(EVERY_S if self._count < OFTEN else 5.0 if self._count < SELDOM else 60.0)
            self.flush()

    def flush(self) -> None:
        """Tell what is new now."""
        if not self._is_news:
            return
        now = time.monotonic()
        moved, passed_s = self._moved_bytes - self._told_moved_bytes, max(now - self._told_at, 1e-3)
        self._told_moved_bytes, self._told_at, self._is_news = self._moved_bytes, now, False
        self._count += 1
        self._emit(
            "outputs_progress",
            files=self.files,
            bytes=self.bytes,
            left=self._left(),
            bytes_per_s=round(moved / passed_s),
            **({"path": self._path} if self._path else {}),
        )

    def finish(self) -> None:
        """The last word."""
        self._emit("outputs_finished", files=self.files, bytes=self.bytes, left=self._left())
