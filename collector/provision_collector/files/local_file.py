"""A file of this machine while it is sent: read in blocks, holes left out, hashed, and watched for changes. It may block."""

from __future__ import annotations

import errno
import os

from provision_agent.contract.content import BLOCK_BYTES, Content
from provision_agent.contract.failures import Failure


class ChangedError(Exception):
    """The file is not any more what it was when it was opened."""


class LocalFile:
    """Not for several threads at once. Every method raises Failure where this machine cannot read it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size_bytes = self.mtime_ns = 0
        self.digest = ""
        """The sha256 of the whole content; empty before it was read to its end."""
        self._descriptor = -1
        self._identity = (0, 0, 0)
        self._content = Content()

    def open(self) -> None:
        """Open it, or see anew what it is."""
        self.close()
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            about = os.fstat(self._descriptor)
        except OSError as error:
            raise self._unreadable(error) from None
        self.size_bytes, self.mtime_ns = about.st_size, about.st_mtime_ns
        self._identity = (about.st_size, about.st_mtime_ns, about.st_ino)
        self.rewind()

    def rewind(self) -> None:
        """Begin anew."""
        self._content, self.digest = Content(), ""

    def sha256(self) -> str:
        """The hash of all of it; then it stands at its beginning again."""
        self.skip(self.size_bytes)
        found = self._content.sha256
        self.rewind()
        self.digest = found
        return found

    def skip(self, count: int) -> str:
        """Pass over the first *count* bytes; their hash, or an empty text where there are fewer."""
        if count > self.size_bytes:
            return ""
        while self._content.position < count:
            data = self._pread(count)
            if not data:
                return ""
            self._content.take(data)
        return self._content.sha256

    def read(self) -> tuple[int, bytes] | None:
        """The next block of data with its offset, past a hole if there is one; None at the end.

        Raises:
            ChangedError: the file is another one by now.
        """
        self._content.skip_to(self._data_after(self._content.position))
        offset = self._content.position
        if offset >= self.size_bytes:
            self._finish()
            return None
        data = self._pread(self.size_bytes)
        if not data:
            raise ChangedError
        self._content.take(data)
        return offset, data

    def close(self) -> None:
        """Let go of it. Safe to repeat."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _finish(self) -> None:
        try:
            now = os.stat(self.path)
        except OSError:
            raise ChangedError from None
        if (now.st_size, now.st_mtime_ns, now.st_ino) != self._identity:
            raise ChangedError
        self.digest = self._content.sha256

    def _data_after(self, at: int) -> int:
        """Where the next data begin, at *at* or after it; the end, where only a hole is left."""
        try:
            return os.lseek(self._descriptor, at, os.SEEK_DATA)
        except OSError as error:
            return self.size_bytes if error.errno == errno.ENXIO else at
        except AttributeError:
            return at  # a system that knows no holes

    def _pread(self, end: int) -> bytes:
        """The next block, which ends at *end* at the latest."""
        at = self._content.position
        try:
            return os.pread(self._descriptor, min(BLOCK_BYTES, end - at), at)
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> Failure:
        why = (error.strerror or str(error)).lower()
        return Failure("missing", f"`{self.path}` cannot be read here: {why}", case="unreadable_here")
