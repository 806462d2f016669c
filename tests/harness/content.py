"""File contents that follow from a seed: any size, any offset, nothing held in memory.

Two blocks of one content never look alike, so a byte written to the wrong place changes the hash.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import stat
import struct
import zipfile
from collections.abc import Mapping

BLOCK = 1 << 20


class Content:
    """What a server sends for one path. `head` replaces the first bytes."""

    def __init__(self, size: int, seed: int = 0, *, head: bytes = b"") -> None:
        self.size = size
        self.head = head[:size]
        self._blocks = random.Random(seed).getrandbits(8 * BLOCK).to_bytes(BLOCK, "little") * 2
        self._sha256: str | None = None

    @classmethod
    def of(cls, data: bytes) -> Content:
        """Exactly *data*."""
        return cls(len(data), head=data)

    @classmethod
    def safetensors(cls, size: int, seed: int = 0) -> Content:
        """A valid safetensors file of exactly *size* bytes (at least 128) with one tensor."""
        count = size - 128
        tensor = {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}
        header = json.dumps({"weight": tensor}).encode().ljust(120)
        return cls(size, seed, head=struct.pack("<Q", len(header)) + header)

    @classmethod
    def zip(cls, modes: Mapping[str, int]) -> Content:
        """A zip archive whose members have these names and modes, and their name twenty times as content."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            for name, mode in modes.items():
                entry = zipfile.ZipInfo(name)
                entry.external_attr = (stat.S_IFREG | mode) << 16
                made.writestr(entry, name * 20)
        return cls.of(out.getvalue())

    def read(self, offset: int, length: int) -> memoryview:
        """Up to *length* bytes from *offset*; fewer at the end and at a block's end, none only at the end."""
        length = min(length, self.size - offset)
        if offset < len(self.head):
            return memoryview(self.head)[offset : offset + max(length, 0)]
        number, inside = divmod(offset, BLOCK)
        turn = (number * 2654435761 + 12345) % BLOCK
        return memoryview(self._blocks)[turn + inside : turn + inside + max(0, min(length, BLOCK - inside))]

    def bytes(self) -> bytes:
        """All of it, for small contents."""
        return b"".join(bytes(piece) for piece in self._pieces())

    @property
    def sha256(self) -> str:
        """Hex digest of the whole."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for piece in self._pieces():
                digest.update(piece)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def _pieces(self):  # type: ignore[no-untyped-def]
        at = 0
        while at < self.size:
            piece = self.read(at, BLOCK)
            yield piece
            at += len(piece)


class FileContent(Content):
    """The bytes of a real file, sent by the kernel where it can: for benchmarks."""

    def __init__(self, path: str) -> None:
        super().__init__(os.stat(path).st_size)
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, length: int) -> memoryview:
        return memoryview(os.pread(self.descriptor, min(length, BLOCK), offset))
