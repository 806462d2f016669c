"""A file while it is sent: read in blocks, holes left out, hashed, and watched for changes."""

from __future__ import annotations

import errno
import os
from typing import Optional, Tuple

from ..contract.content import BLOCK_BYTES, Content
from ..contract.failures import Failure


class Changed(Exception):
    """The file is not any more what it was when it was opened."""


class LocalFile:
    """Not for several threads at once. Raises Failure where it cannot be read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._content = Content()
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
        return self._content.sha256

    def rewind(self) -> None:
        """Begin anew."""
        self._content = Content()

    def skip(self, count: int) -> bool:
        """Pass over the first *count* bytes; False where there are fewer."""
        while self._content.position < count:
            data = self._pread(count)
            if not data:
                return False
            self._content.take(data)
        return True

    def read(self) -> Optional[Tuple[int, bytes]]:
        """The next block of data with its offset, past a hole if there is one; None at the end. Raises Changed."""
        self._content.skip_to(self._data_after(self._content.position))
        offset = self._content.position
        if offset >= self.size_bytes:
            self._check()
            return None
        data = self._pread(self.size_bytes)
        if not data:
            raise Changed
        self._content.take(data)
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

    def _pread(self, end: int) -> bytes:
        """The next block, which ends at *end* at the latest."""
        at = self._content.position
        try:
            return os.pread(self._descriptor, min(BLOCK_BYTES, end - at), at)
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> Failure:
        return Failure(
            "missing", f"`{self.path}` cannot be read: {error.strerror or error}", case="no_file_there"
        )
