"""A file while it is sent: read in blocks, holes left out, hashed, and watched for changes."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Optional, Tuple

from ..contract.failures import Failure

BLOCK_BYTES = 1 << 20
_ZEROS = bytes(BLOCK_BYTES)


class Changed(Exception):
    """The file is not any more what it was when it was opened."""


class LocalFile:
    """Not for several threads at once. Raises Failure where it cannot be read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._hasher = hashlib.sha256()
        self._at = 0
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            about = os.fstat(self._descriptor)
        except OSError as error:
            raise self._unreadable(error) from None
        self.size_bytes, self.mtime_ns = about.st_size, about.st_mtime_ns
        self._identity = (about.st_size, about.st_mtime_ns, about.st_ino)

    @property
    def sha256(self) -> str:
        """The hash of what was read or skipped so far."""
        return self._hasher.hexdigest()

    def rewind(self) -> None:
        """Begin anew."""
        self._hasher, self._at = hashlib.sha256(), 0

    def skip(self, count: int) -> bool:
        """Pass over the first *count* bytes; False where there are fewer."""
        while self._at < count:
            data = self._pread(min(BLOCK_BYTES, count - self._at))
            if not data:
                return False
            self._hasher.update(data)
            self._at += len(data)
        return True

    def read(self) -> Optional[Tuple[int, bytes]]:
        """The next block of data with its offset, past a hole if there is one; None at the end. Raises Changed."""
        start = self._data_after(self._at)
        while self._at < start:
            some = min(start - self._at, BLOCK_BYTES)
            self._hasher.update(_ZEROS[:some])
            self._at += some
        if self._at >= self.size_bytes:
            self._check()
            return None
        data = self._pread(min(BLOCK_BYTES, self.size_bytes - self._at))
        if not data:
            raise Changed
        offset, self._at = self._at, self._at + len(data)
        self._hasher.update(data)
        return offset, data

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def _check(self) -> None:
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except OSError:
            raise Changed from None
        if (now.st_size, now.st_mtime_ns, now.st_ino) != self._identity:
            raise Changed

    def _data_after(self, at: int) -> int:
        try:
            return min(os.lseek(self._descriptor, at, os.SEEK_DATA), self.size_bytes)
        except OSError as error:
            return self.size_bytes if error.errno == errno.ENXIO else at

    def _pread(self, count: int) -> bytes:
        try:
            return os.pread(self._descriptor, count, self._at)
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> Failure:
        return Failure(
            "missing", f"`{self.path}` cannot be read: {error.strerror or error}", case="no_file_there"
        )
