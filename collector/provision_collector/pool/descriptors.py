"""Many runs in one process need many files: each has three mirrors, a connection and what its readers hold open."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from typing import NamedTuple

MOST = 65536
MOST_CONNECTIONS = 1024
FILES_PER_CONNECTION = 2
"""The socket, and the file that is read for it."""
FILES_PER_RUN = 10
"""Its mirrors, its stream, its connection with a jump host, and what is opened for a moment."""
FILES_RESERVED = 64
"""For the server itself: its database, its listener, what it writes for a moment."""
SPARE_FILES = 8


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may: the usual 1024 end at some 150 runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(ValueError, OSError):  # some systems have a lower limit than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Room(NamedTuple):
    """How much the limit of open files leaves room for."""

    connections: int
    runs: int

    @classmethod
    def of(cls, limit_files: int) -> Room:
        """Of a process that may have *limit_files* open."""
        free = max(limit_files - FILES_RESERVED - SPARE_FILES, 32)
        connections = min(MOST_CONNECTIONS, free // 4 // FILES_PER_CONNECTION)
        return cls(connections, max((free - connections * FILES_PER_CONNECTION) // FILES_PER_RUN, 1))


def room_here() -> Room:
    """How much this process has room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Room.of(MOST if soft == resource.RLIM_INFINITY else soft)


class SpareFiles:
    """Open files that nobody needs: given up when there are no descriptors left, so that the server can go on accepting."""

    def __init__(self, count: int = SPARE_FILES) -> None:
        self._count = count
        self._held: list[int] = []
        self.refill()

    def refill(self) -> None:
        """Take back what was given up, as far as there are descriptors."""
        while len(self._held) < self._count:
            try:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return

    def release(self) -> None:
        """Give all of them up. Safe to repeat."""
        while self._held:
            os.close(self._held.pop())
