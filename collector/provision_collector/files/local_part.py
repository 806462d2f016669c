"""The part of a file that comes here: beside its final name, which it gets when its hash is the sender's. It may block."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress

from provision_agent.contract.file_messages import CompleteFile
from provision_agent.contract.frames import ProtocolError

from ..storage import FILE_MODE

BLOCK_BYTES = 1 << 20
_ZEROS = bytes(BLOCK_BYTES)


class Part:
    """The part of a file in the open folder *folder*."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder = os.dup(folder)
        self._name = name
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        self._part = f".{os.fsdecode(os.fsencode(name)[:200])}.{digest}.part"
        self._hasher = hashlib.sha256()
        self.position = 0
        """So many bytes are there."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._part, flags, FILE_MODE, dir_fd=folder)
        while data := os.pread(self._descriptor, BLOCK_BYTES, self.position):
            self._hasher.update(data)
            self.position += len(data)

    @property
    def proof(self) -> str:
        """The sha256 of what is there."""
        return self._hasher.hexdigest()

    def write(self, offset: int, data: bytes) -> None:
        """Take bytes: where the last ones ended, beyond a hole, or at 0 to begin anew. Raises OSError, ProtocolError."""
        if offset < self.position:
            if offset:
                raise ProtocolError("bytes of a file came out of their order")
            self._begin_anew()
        self._skip_to(offset)
        view, at = memoryview(data), offset
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view, at = view[written:], at + written
        self._hasher.update(data)
        self.position = at

    def is_whole(self, complete: CompleteFile) -> bool:
        """Whether its content is what the sender says; else it begins anew. Raises OSError."""
        if complete.size_bytes < self.position:
            self._begin_anew()
        self._skip_to(complete.size_bytes)
        os.ftruncate(self._descriptor, complete.size_bytes)
        if self._hasher.hexdigest() == complete.sha256:
            return True
        self._begin_anew()
        return False

    def name(self, complete: CompleteFile, mode: int) -> None:
        """Give it its final name. Raises OSError."""
        os.fchmod(self._descriptor, mode & 0o777 | 0o600)
        os.utime(self._descriptor, ns=(complete.mtime_ns, complete.mtime_ns))
        os.fsync(self._descriptor)
        os.replace(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self.close()

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

    def _skip_to(self, offset: int) -> None:
        while self.position < offset:
            some = min(offset - self.position, BLOCK_BYTES)
            self._hasher.update(_ZEROS[:some])
            self.position += some

    def _begin_anew(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._hasher, self.position = hashlib.sha256(), 0
