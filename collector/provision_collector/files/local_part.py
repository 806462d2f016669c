"""The part of a file that comes here: beside its final name, which it gets when its hash is the sender's. It may block."""

from __future__ import annotations

import os
from contextlib import suppress

from provision_agent.contract.content import BLOCK_BYTES, Content, part_name
from provision_agent.contract.file_messages import CompleteFile
from provision_agent.contract.frames import Bytes, ProtocolError

from ..storage import FILE_MODE

WRITE_BACK_BYTES = 16 << 20


class Part:
    """The part of a file in the open folder *folder*."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder = os.dup(folder)
        self._name = name
        self._part = part_name(name, name)
        self._content = Content()
        self._written_back = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._part, flags, FILE_MODE, dir_fd=folder)
        while data := os.pread(self._descriptor, BLOCK_BYTES, self.position):
            self._content.take(data)
        self._written_back = self.position

    @property
    def position(self) -> int:
        """So many bytes are there."""
        return self._content.position

    @property
    def proof(self) -> str:
        """The sha256 of what is there."""
        return self._content.sha256

    def write(self, offset: int, data: Bytes) -> None:
        """Take bytes: where the last ones ended, beyond a hole, or at 0 to begin anew. Raises OSError, ProtocolError."""
        if offset < self.position:
            if offset:
                raise ProtocolError("bytes of a file came out of their order")
            self._begin_anew()
        self._content.skip_to(offset)
        view, at = memoryview(data), offset
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view, at = view[written:], at + written
        self._content.take(data)
        if self.position - self._written_back >= WRITE_BACK_BYTES:
            self._write_back()

    def is_whole(self, complete: CompleteFile) -> bool:
        """Whether its content is what the sender says; else it begins anew. Raises OSError."""
        if complete.size_bytes < self.position:
            self._begin_anew()
        self._content.skip_to(complete.size_bytes)
        os.ftruncate(self._descriptor, complete.size_bytes)
        if self.proof == complete.sha256:
            return True
        self._begin_anew()
        return False

    def name(self, complete: CompleteFile, mode: int) -> None:
        """Give it its final name. It stays open, so that it can be brought to the disk. Raises OSError."""
        os.fchmod(self._descriptor, mode & 0o777 | 0o600)
        os.utime(self._descriptor, ns=(complete.mtime_ns, complete.mtime_ns))
        os.replace(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        folder, self._folder = self._folder, -1
        os.close(folder)

    def sync(self) -> None:
        """Return when it is on the disk: a power cut takes nothing of it. Raises OSError."""
        os.fsync(self._descriptor)

    def discard(self) -> None:
        """Remove it: it is worth nothing."""
        with suppress(OSError):
            os.unlink(self._part, dir_fd=self._folder)
        self.close()

    def close(self) -> None:
        """Let go of it; what has landed stays. Safe to repeat."""
        for descriptor in (self._descriptor, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._folder = -1

    def _write_back(self) -> None:
        """Have the system bring it to the disk while more comes: the end then waits for little."""
        begun, self._written_back = self._written_back, self.position
        with suppress(OSError, AttributeError):  # no such call on this system
            os.posix_fadvise(self._descriptor, begun, self.position - begun, os.POSIX_FADV_DONTNEED)

    def _begin_anew(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._content = Content()
        self._written_back = 0
