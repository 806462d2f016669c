"""One file of a log, plain or compressed, and how far it has been read.

Whoever writes to it, truncates it or rotates it meanwhile: what `read` returns follows what it returned before, or
it says that it does not.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import struct
import time
import zlib
from typing import Callable, Dict, Optional, Tuple

from ..contract import frames

CHUNK_BYTES = 256 * 1024
EVIDENCE_BYTES = 1024
"""So much of the head, and so much before the offset, is compared on every wake."""
TICK_S = 1.0
SAME_TIME_S = 2.0

Identity = Tuple[int, int]
"""Device and inode."""


def nothing() -> None:
    """Nobody waits for a sign of life."""


class Source:
    """One open incarnation of a log, and how far it has been read."""

    def __init__(self, descriptor: int, path: str, offset: int = 0) -> None:
        self.descriptor = descriptor
        self.path = path
        facts = os.fstat(descriptor)
        self.identity: Identity = (facts.st_dev, facts.st_ino)
        self.modified_ns = facts.st_mtime_ns
        self.begin_at(offset)

    @classmethod
    def open(cls, path: str, offset: int = 0) -> "Optional[Source]":
        """The regular file at *path*, to be read from *offset* (bytes); None when there is none that can be read."""
        descriptor = _opened(path)
        return None if descriptor is None else cls(descriptor, path, offset)

    def begin_at(self, offset: int) -> None:
        """What comes next is the byte at *offset*; what stands before it now is the evidence."""
        self.offset = offset
        self._head = self.at(0, min(EVIDENCE_BYTES, offset))
        start = max(0, offset - EVIDENCE_BYTES)
        self._behind = self.at(start, offset - start)

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self.descriptor).st_size

    def at(self, offset: int, size: int) -> bytes:
        """The *size* bytes from *offset*, or as many as there are."""
        return os.pread(self.descriptor, size, offset)

    def read(self) -> Optional[bytes]:
        """The next bytes, empty at the end; None when those before are not what they were.

        The evidence is looked at *after* the read: if it still stands, nothing was truncated before or during it.
        """
        data = self.at(self.offset, CHUNK_BYTES)
        if not self.has_evidence_of(self):
            return None
        self.offset += len(data)
        self._behind = (self._behind + data[-EVIDENCE_BYTES:])[-EVIDENCE_BYTES:]
        if len(self._head) < EVIDENCE_BYTES:
            self._head = (self._head + data[:EVIDENCE_BYTES])[:EVIDENCE_BYTES]
        return data

    def has_evidence_of(self, other: "Source") -> bool:
        """Whether this file holds what was last read of *other*, at the same place."""
        behind, head = other._behind, other._head
        if other.offset > EVIDENCE_BYTES and self.at(0, len(head)) != head:
            return False
        return self.at(other.offset - len(behind), len(behind)) == behind

    def proves(self, offset: int, proof: Optional[str]) -> bool:
        """Whether the last `frames.PROOF_BYTES` before *offset* have the sha256 *proof* (hex); nothing is proved by nothing."""
        if offset == 0 or proof is None or self.size < offset:
            return False
        start = max(0, offset - frames.PROOF_BYTES)
        return self.sha256(start, offset - start) == proof

    def sha256(self, offset: int, size: int) -> str:
        """Of the *size* bytes from *offset*."""
        return hashlib.sha256(self.at(offset, size)).hexdigest()

    def facts(self) -> Dict[str, object]:
        """What finds this file again after a cut."""
        return {"dev": self.identity[0], "ino": self.identity[1]}

    def close(self) -> None:
        os.close(self.descriptor)


class Compressed(Source):
    """A rotated file that was compressed meanwhile, read as if it were not; nothing is unpacked to the disk.

    Nobody writes to it any more, so no evidence is needed between two reads. Reading forward is cheap, going back begins anew.
    """

    def __init__(self, descriptor: int, path: str, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._rewind(descriptor)
        self._size = max(0, self.content_bytes(path, os.fstat(descriptor)))
        super().__init__(descriptor, path)

    @classmethod
    def open_at(cls, path: str, offset: int, tick: Callable[[], None]) -> "Optional[Source]":
        """The compressed file at *path*; None when there is none that can be read.

        Args:
            offset: In its content, in bytes.
            tick: Called every second while its content is searched.
        """
        descriptor = _opened(path)
        if descriptor is None:
            return None
        made = cls(descriptor, path, tick)
        made.begin_at(offset)
        return made

    @staticmethod
    def content_bytes(path: str, facts: os.stat_result) -> int:
        """How much it unfolds to; -1 when it did not keep the time of what was compressed, so that it has no place in the order."""
        try:
            with open(path, "rb") as file:
                magic, _, written = struct.unpack("<3s1sI", file.read(8))
                file.seek(-4, os.SEEK_END)
                size = struct.unpack("<I", file.read(4))[0]  # modulo 4 GiB
        except (OSError, struct.error):
            return -1
        kept_time = abs(written - facts.st_mtime) <= SAME_TIME_S
        return int(size) if magic == b"\x1f\x8b\x08" and kept_time else -1

    def begin_at(self, offset: int) -> None:
        self.offset = offset
        self._head = self._behind = b""

    @property
    def size(self) -> int:
        return self._size

    def at(self, offset: int, size: int) -> bytes:
        try:
            if offset < self._position:
                self._file.close()
                self._rewind(self.descriptor)
            self._skip_to(offset)
            data = self._file.read(size)
        except (OSError, EOFError, zlib.error):
            return b""  # it is broken: its bytes prove nothing
        self._position += len(data)
        return data

    def read(self) -> Optional[bytes]:
        """The next bytes, empty at the end; None where it is broken."""
        data = self.at(self.offset, CHUNK_BYTES)
        if not data and self.offset < self._size:
            return None
        self.offset += len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()

    def _rewind(self, descriptor: int) -> None:
        own = f"/proc/self/fd/{descriptor}"  # the same file with a position of its own, whatever its name is by now
        self._file = gzip.GzipFile(own, "rb")
        self._position = 0

    def _skip_to(self, offset: int) -> None:
        ticked = time.monotonic()
        while self._position < offset:
            skipped = len(self._file.read(min(CHUNK_BYTES, offset - self._position)))
            if not skipped:
                raise EOFError
            self._position += skipped
            if time.monotonic() - ticked >= TICK_S:
                ticked = time.monotonic()
                self._tick()


def obstacle_at(path: str) -> str:
    """Why what stands at *path* can never be read as a log: one of `frames.OBSTACLES`; empty where nothing is in the way."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return frames.IS_FOLDER
        if not stat.S_ISREG(mode):
            return frames.IS_SPECIAL
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except PermissionError:
        return frames.IS_DENIED
    except OSError:
        pass  # not there, or not any more
    return ""


def _opened(path: str) -> Optional[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor
