"""The hash of a file, made while the file still arrives: it reads what has landed, from the page cache."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from typing import Callable, Optional

READ_BYTES = 1 << 20
LOOK_AGAIN_S = 0.02
STOP_WITHIN_S = 30.0


class Follower:
    """Hashes the file behind a descriptor up to a moving frontier, in a thread of its own.

    The descriptor must stay open until `result` or `stop` has returned.
    """

    def __init__(self, descriptor: int, frontier: Callable[[], int]) -> None:
        self._descriptor = descriptor
        self._frontier = frontier
        self._end: Optional[int] = None
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._digest = hashlib.sha256()
        self._error: Optional[OSError] = None
        self._thread = threading.Thread(target=self._follow, name="sha256", daemon=True)
        self._thread.start()

    def result(self, size_bytes: int, *, stop: Callable[[], bool]) -> Optional[str]:
        """The hex digest, once all *size_bytes* have landed; None when *stop* became True first.

        Raises:
            OSError: the disk cannot be read.
        """
        self._end = size_bytes
        self._wake.set()
        while self._thread.is_alive() and not stop():
            self._thread.join(0.2)
        if self._thread.is_alive():
            self.stop()
            return None
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def stop(self) -> None:
        """Give up; returns when the thread has ended (a read from a dead disk may outlast it)."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(STOP_WITHIN_S)

    def _follow(self) -> None:
        buffer, at = memoryview(bytearray(READ_BYTES)), 0
        try:
            while not self._stopped.is_set():
                end = self._end  # once: it may be set at any moment
                if at == end:
                    return
                if end is None and self._frontier() - at < READ_BYTES:
                    self._wake.wait(LOOK_AGAIN_S)
                    continue
                want = READ_BYTES if end is None else min(READ_BYTES, end - at)
                count = os.preadv(self._descriptor, [buffer[:want]], at)
                if count == 0:
                    raise OSError(errno.EIO, "the file is shorter than what has landed in it")
                self._digest.update(buffer[:count])
                at += count
        except OSError as error:
            self._error = error
