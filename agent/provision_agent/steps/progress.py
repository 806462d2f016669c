"""A step that takes minutes says something at least every few seconds, whatever its child does.

A child that is silent is answered for with what is known from outside: the last line that it wrote, how long ago,
and how many bytes have landed in its folder.
"""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Optional, Type

from ..run.context import Context

_LINE_CHARS = 200
EVERY_S = 8.0
"""Below the ten seconds after which people believe that a program hangs."""


class Progress:
    """Reports ``<kind>_progress`` of one item while it is entered. Thread-safe."""

    def __init__(
        self,
        context: Context,
        item: str,
        level: str,
        *,
        kind: str = "package",
        watched: Optional[str] = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._context = context
        self._fields = {"item": item, "level": level}
        self._event = f"{kind}_progress"
        self._watched = watched
        self._since = time.time() - 1.0  # file systems have coarse clocks
        self._every_s = every_s
        self._started = time.monotonic()
        self._last_line = ""
        self._said_at = self._started
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._ended.set()
        self._ticker.join(timeout=5)

    def say(self, message: str) -> None:
        """Report *message* now."""
        self._said_at = time.monotonic()
        self._context.report(self._event, message=message, **self._fields)

    def line(self, line: str) -> None:
        """Take a line of a child: kept for `agent.log`, reported when its turn comes."""
        self._context.output(line)
        self._last_line = line.strip()
        if time.monotonic() - self._said_at >= self._every_s:
            self.say(self._shown())

    def _tick(self) -> None:
        while not self._ended.wait(max(0.05, self._said_at + self._every_s - time.monotonic())):
            if time.monotonic() - self._said_at >= self._every_s:
                self.say(self._summary())

    def _shown(self) -> str:
        return self._context.redact(self._last_line)[:_LINE_CHARS]

    def _summary(self) -> str:
        landed = _new_bytes(self._watched, self._since) if self._watched else 0
        parts = [
            self._shown() or "working",
            f"{landed / 1e6:.1f} MB on the disk so far" if landed > 0 else "",
            f"{time.monotonic() - self._started:.0f} s",
        ]
        return " · ".join(filter(None, parts))


def _new_bytes(folder: str, since: float) -> int:
    """What was written below *folder* since then, by the wall clock: it is not walked through before there is a need."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(directory, name))
                total += status.st_size if status.st_mtime >= since else 0
            except OSError:
                continue  # it went away between the two calls
    return total
