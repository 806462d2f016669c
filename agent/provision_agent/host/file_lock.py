"""Locks of whole files, where the file system has them: Lustre, NFS, CIFS and FUSE may not."""

from __future__ import annotations

import errno
import os

_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN)


class FileIsBusyError(Exception):
    """Another process has locked the file."""


def try_lock(descriptor: int) -> bool:
    """Lock the open file *descriptor* for this process, without waiting.

    Returns:
        False where the file system cannot lock: then nobody else has a lock either.

    Raises:
        FileIsBusyError: another process has it.
    """
    import fcntl  # here: sources are also asked from machines that have no such module

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise FileIsBusyError from None
        return False  # ENOSYS, ENOLCK, EOPNOTSUPP, and whatever else such file systems answer
    return True


def lockless_warning(path: str) -> str:
    """What to say, once, where files of the file system that holds *path* cannot be locked."""
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.ismount(folder):
        folder = os.path.dirname(folder)
    return (
        f"the file system at `{folder}` cannot lock files: going on without locks; "
        "let only one run at a time use a workspace there"
    )
