"""A named pipe in a run's folder through which somebody hands it one line, such as a secret that comes late.

What is handed over passes through the memory of the kernel only. The pipe is there while the run waits, and at no other time.
"""

from __future__ import annotations

import os
import select
import stat
import time
from types import TracebackType
from typing import Optional

LOOK_AGAIN_S = 0.25
WRITTEN_WITHIN_S = 5.0


class Mailbox:
    """The reader's end. It exists from its making to `close`; raises OSError where no pipe can be made."""

    def __init__(self, path: str, *, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._data = b""
        if os.path.lexists(path):
            os.unlink(path)
        os.mkfifo(path, 0o600)
        self._descriptor = os.open(
            path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        )  # as a writer, too: it never ends

    def __enter__(self) -> Mailbox:
        return self

    def __exit__(
        self,
        kind: Optional[type],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def line(self, wait_s: float = LOOK_AGAIN_S) -> bytes:
        """The next line with its end, empty where none came within *wait_s*. Raises OSError."""
        ready, _, _ = select.select([self._descriptor], [], [], wait_s)
        self._data += os.read(self._descriptor, 65536) if ready else b""
        if len(self._data) > self._max_bytes:
            self._data = b""
        line, end, rest = self._data.partition(b"\n")
        if not end:
            return b""
        self._data = rest
        return line + end

    def close(self) -> None:
        """Nobody hands anything over any more."""
        os.close(self._descriptor)
        os.unlink(self._path)


def hand_over(path: str, line: bytes) -> bool:
    """Write *line*, which ends with a line's end, to whoever waits at *path*; False when nobody does, or not any more."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return False
        return _written(descriptor, line)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _written(descriptor: int, data: bytes) -> bool:
    ends_at = time.monotonic() + WRITTEN_WITHIN_S
    while data and time.monotonic() < ends_at:
        if select.select([], [descriptor], [], LOOK_AGAIN_S)[1]:
            data = data[os.write(descriptor, data) :]
    return not data
