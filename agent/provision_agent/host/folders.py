"""Folders that need not exist yet."""

from __future__ import annotations

import errno
import os
import stat


def nearest_folder(path: str) -> str:
    """The closest folder above *path* that exists; *path* itself if it does."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or ("/" if os.path.isabs(path) else ".")
    return path


def make_private(path: str) -> None:
    """Make *path* a folder of ours that nobody else may read or write; the one above it is there.

    One that another user of this machine made first, or a link, is never used: he could change what lies in it.
    What a file system that knows no users calls its owner is ours where our own new file has it too.

    Raises:
        OSError: it cannot be made, or is not ours; `strerror` says which.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if os.path.islink(path):
            raise OSError(errno.EPERM, f"`{path}` is a link, not a folder") from None
    at = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found, name = os.fstat(at), f"probe.{os.getpid()}"
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=at))
        try:
            made = os.stat(name, dir_fd=at, follow_symlinks=False)
        finally:
            os.unlink(name, dir_fd=at)
        if found.st_uid not in (os.geteuid(), made.st_uid):
            raise OSError(errno.EPERM, f"`{path}` belongs to another user (uid {found.st_uid})")
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(at, 0o700)
    finally:
        os.close(at)


def ignores_case(folder: str) -> bool:
    """Are `a` and `A` one name in *folder*? Raises OSError where nothing can be written there."""
    name = f".provision-case-{os.getpid()}"
    path = os.path.join(folder, name)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    try:
        return os.path.lexists(os.path.join(folder, name.upper()))
    finally:
        os.unlink(path)
