"""How the C library keeps the memory of a process with many threads."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8


def share_one_arena() -> None:
    """Have all threads take memory from one place, where the C library is glibc.

    It gives each thread one of its own otherwise, and what one of them let go of is of no use to the others. To be
    called before the first thread begins. Python's threads hold its lock while they take memory: none waits for another.
    """
    with suppress(OSError, AttributeError):  # another C library: it has no such word, or no need of it
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
