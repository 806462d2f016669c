"""Room on the disk for a file that is about to come: reserved, or else looked for.

A file of which all parts have their place in advance costs a disk's file system less than half of the time. In
memory (tmpfs) a reservation costs as much as the writing itself, and all of it before the first byte: there it is
only looked whether there is room.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Callable, Optional

FALLOC_KEEP_SIZE = 1
TMPFS_MAGIC = 0x01021994
STATFS_BYTES = 256
"""More than `struct statfs` has anywhere; its first word says which kind of file system it is."""
BLOCK_BYTES = 512
"""The unit of `st_blocks`."""


def reserve(descriptor: int, size_bytes: int) -> None:
    """See to it that a file of *size_bytes* has room, without writing it.

    Not by `os.posix_fallocate`: where the file system cannot reserve, glibc's writes every block.

    Raises:
        OSError: there is not enough room.
    """
    if _FALLOCATE is None or is_in_memory(descriptor):
        return _look_for_room(descriptor, size_bytes)
    while _FALLOCATE(descriptor, FALLOC_KEEP_SIZE, 0, size_bytes) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size)  # some keep what they could get
            raise OSError(code, os.strerror(code))
        if code != errno.EINTR:
            return None
    return None


def is_in_memory(descriptor: int) -> bool:
    """Is the file in memory? False where that cannot be told."""
    if _FSTATFS is None:
        return False
    found = ctypes.create_string_buffer(STATFS_BYTES)
    return _FSTATFS(descriptor, found) == 0 and ctypes.c_long.from_buffer(found).value == TMPFS_MAGIC


def _look_for_room(descriptor: int, size_bytes: int) -> None:
    space, there_bytes = os.fstatvfs(descriptor), os.fstat(descriptor).st_blocks * BLOCK_BYTES
    if size_bytes - there_bytes > space.f_bavail * space.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _load_fallocate() -> Optional[Callable[[int, int, int, int], int]]:
    try:
        found = ctypes.CDLL(None, use_errno=True).fallocate
        found.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
        return found
    except (OSError, AttributeError):
        return None


def _load_fstatfs() -> "Optional[Callable[[int, ctypes.Array[ctypes.c_char]], int]]":
    try:
        found = ctypes.CDLL(None, use_errno=True).fstatfs
        found.argtypes = [ctypes.c_int, ctypes.c_void_p]
        return found
    except (OSError, AttributeError):
        return None


_FALLOCATE = _load_fallocate()
_FSTATFS = _load_fstatfs()
