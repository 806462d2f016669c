"""How fast a disk takes bytes, past the memory of the machine: a file that has no name is written and synced."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import threading
import time
from typing import NamedTuple, Optional

BLOCK_BYTES = 4 << 20
LEAST_BYTES, MOST_BYTES = 64 << 20, 2 << 30
WRITE_S = 4.0
"""A disk that takes longer for what it is given is measured by what it took."""
_FREE_SHARE = 4


class Written(NamedTuple):
    """What a disk took."""

    bytes: int
    seconds: float
    why: str = ""
    """Why it could not be measured."""
    is_over: bool = True
    """It took all that it was given; False: it was given up."""

    @property
    def bytes_per_s(self) -> float:
        """The rate, with the sync; 0 of a disk that was given up."""
        return self.bytes / max(self.seconds, 1e-6) if self.is_over else 0.0


def measure(folder: str, *, wanted_bytes_per_s: int, within_s: float) -> Written:
    """Write to the disk of *folder* what it should take in a second.

    Args:
        within_s: A disk that hangs is given up after this.

    Returns:
        What was written, and in which time.
    """
    writing = _Writing(folder, wanted_bytes_per_s)
    thread = threading.Thread(target=writing.run, daemon=True)  # a write that hangs cannot be ended
    began = time.monotonic()
    thread.start()
    thread.join(within_s)
    return writing.told or Written(writing.bytes, time.monotonic() - began, is_over=False)


class _Writing:
    """One measurement, in a thread of its own."""

    def __init__(self, folder: str, wanted_bytes_per_s: int) -> None:
        self._folder = folder
        self._wanted = min(max(LEAST_BYTES, wanted_bytes_per_s), MOST_BYTES)
        self.bytes = 0
        self.told: Optional[Written] = None

    def run(self) -> None:
        try:
            self.told = self._measured()
        except OSError as error:
            self.told = Written(0, 0.0, f"`{self._folder}` cannot be written: {error.strerror or error}")

    def _measured(self) -> Written:
        room = shutil.disk_usage(self._folder).free // _FREE_SHARE
        if room < LEAST_BYTES:
            return Written(0, 0.0, f"too little is free on `{self._folder}` to measure it")
        descriptor = _nameless_file(self._folder)
        try:
            return self._write(descriptor, min(self._wanted, room))
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, most: int) -> Written:
        with mmap.mmap(-1, BLOCK_BYTES) as block:  # begins at a page, as direct writing wants it
            block.write(os.urandom(BLOCK_BYTES))  # no file system can make less of it
            began = time.monotonic()
            while self.bytes < most and time.monotonic() - began < WRITE_S:
                block[:8] = self.bytes.to_bytes(8, "little")  # nor take two blocks for one
                self.bytes += os.write(descriptor, block)
            os.fsync(descriptor)
            return Written(self.bytes, time.monotonic() - began)


def _nameless_file(folder: str) -> int:
    """A new file, which is gone when it is closed; it is written past the page cache where the file system can."""
    path = tempfile.mktemp(prefix=".measure-", dir=folder)  # noqa: S306  # it is made with O_EXCL
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _unlink(path)
        descriptor = os.open(path, flags, 0o600)
    _unlink(path)
    return descriptor


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
