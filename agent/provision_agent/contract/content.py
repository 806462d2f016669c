"""A file while it comes or goes: the sha256 of its content so far, and its name until it is whole. Pure, shared by both halves."""

from __future__ import annotations

import hashlib

from .frames import Bytes

BLOCK_BYTES = 1 << 20
"""How much of a file is read at once."""
_ZEROS = memoryview(bytes(BLOCK_BYTES))


class Content:
    """What is known of a content so far; `position` is the number of its bytes."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self.position = 0

    @property
    def sha256(self) -> str:
        """The hash of all bytes before `position`, in hex."""
        return self._hasher.hexdigest()

    def take(self, data: Bytes) -> None:
        """These bytes are next."""
        self._hasher.update(data)
        self.position += len(data)

    def skip_to(self, position: int) -> None:
        """A hole is next, up to *position*: it reads as zeros."""
        while self.position < position:
            self.take(_ZEROS[: position - self.position])


def part_name(name: str, path: str) -> str:
    """What the file *name* is called, in its folder, until it is whole; *path* tells it from a neighbour's of the same beginning."""
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    beginning = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "surrogateescape")
    return f".{beginning}.{digest}.part"
