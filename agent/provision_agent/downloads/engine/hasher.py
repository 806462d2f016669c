"""The hash of a file, made while the file still arrives.

A buffer that continues what has been hashed goes straight in, by the thread that fetched it. What landed out of
order is read back from the page cache as soon as everything before it is there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from typing import Callable, Optional

BUFFER_BYTES = 1 << 20
"""What connections read at a time, at most, and what is read back at a time."""
LOOK_AGAIN_S = 0.1
STOP_WITHIN_S = 30.0


class Hasher:
    """Hashes the file behind a descriptor up to a moving frontier; has a thread of its own.

    The descriptor must stay open until `result` or `stop` has returned.
    """

    def __init__(self, descriptor: int, frontier: Callable[[], int]) -> None:
        self._descriptor = descriptor
        self._frontier = frontier
        self._digest = hashlib.sha256()
        self.position = 0
        """Everything before it has been hashed."""
        self._turn = threading.Lock()
        """Held by whoever feeds the digest."""
        self._end: Optional[int] = None
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._error: Optional[OSError] = None
        self._thread = threading.Thread(target=self._follow, name="sha256", daemon=True)
        self._thread.start()

    def offer(self, view: memoryview, offset: int) -> None:
        """*view* has landed at *offset*, for good: hash it now if it comes next and nobody is at it."""
        if offset == self.position and self._turn.acquire(blocking=False):
            try:
                if offset == self.position:
                    self._digest.update(view)
                    self.position += len(view)
            finally:
                self._turn.release()

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
        assert self.position == size_bytes
        return self._digest.hexdigest()

    def stop(self) -> None:
        """Give up; returns when the thread has ended (a read from a dead disk may outlast it)."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(STOP_WITHIN_S)

    def _follow(self) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        try:
            while not self._stopped.is_set():
                end = self._end  # once: it may be set at any moment
                until = self._frontier() if end is None else end
                if end is None and until - self.position <= BUFFER_BYTES:
                    self._wake.wait(LOOK_AGAIN_S)  # whoever has landed this is about to offer it
                    continue
                with self._turn:
                    self._read_back(until, buffer)
                if end is not None:
                    return
        except OSError as error:
            self._error = error

    def _read_back(self, until: int, buffer: memoryview) -> None:
        while self.position < until and not self._stopped.is_set():
            count = os.preadv(self._descriptor, [buffer[: until - self.position]], self.position)
            if count == 0:
                raise OSError(errno.EIO, "the file is shorter than what has landed in it")
            self._digest.update(buffer[:count])
            self.position += count
