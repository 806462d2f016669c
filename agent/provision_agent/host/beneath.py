"""Write below a folder and never beside it: paths are walked part by part, at the moment of writing.

A link on the way is followed when the people of this machine made it. One that something from outside brought (a
repository, an archive) is followed only as far as it stays inside. Names are then resolved by the descriptor of the
folder that was reached, so nothing that changes on the way in the meantime can lead elsewhere.
"""

from __future__ import annotations

import errno
import os
from typing import Callable, List, Optional, Tuple

MOST_LINKS = 40
"""As the kernel has it."""
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)

Brought = Callable[[str], bool]
"""Did something from outside bring the link at this path?"""


class LeadsOutError(OSError):
    """A link that somebody else brought leads out of the folder, or into what is kept from it; `filename` is the link."""

    def __init__(self, link: str, target: str) -> None:
        super().__init__(errno.ELOOP, f"the link `{link}` leads to `{target}`", link)


class Folder:
    """A folder that was reached, held open: what is done in it is done in it, whatever becomes of its path. Close it."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path
        """Where it really is."""

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """A descriptor of the file *name* in it; a link of that name is not followed. Raises OSError."""
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.descriptor)

    def lstat(self, name: str) -> os.stat_result:
        """About *name* in it, itself. Raises OSError."""
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def replace(self, name: str, final: str) -> None:
        """Give *name* the name *final*. Raises OSError."""
        os.replace(name, final, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def unlink(self, name: str) -> None:
        """Remove the file or link *name*. Raises OSError."""
        os.unlink(name, dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove the file or link *name*, if it is there. Raises OSError."""
        try:
            self.unlink(name)
        except FileNotFoundError:
            pass

    def sync(self) -> None:
        """Have the names in it on the disk, where the file system can do that."""
        at = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            os.fsync(at)
        except OSError:
            pass  # some network file systems cannot; the file itself is safe
        finally:
            os.close(at)

    def close(self) -> None:
        """Let go of it. Safe to repeat."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def open_folder(
    root: str, path: str, *, is_brought: Brought, kept: Tuple[str, ...] = (), make: bool = True
) -> Folder:
    """The folder at *path* below *root*.

    Args:
        root: Where writing is wanted; it may itself be reached by links.
        path: Relative to it, without ``..``.
        is_brought: Given the real path of a link on the way.
        kept: Names in *root* below which nothing is reached.
        make: Make the folders that are not there.

    Raises:
        LeadsOutError: a link that was brought leads out, or something leads into what is *kept*.
        OSError: it cannot be reached or made.
    """
    walk = _Walk(os.path.realpath(root), is_brought, kept, make)
    try:
        return walk.to(path)
    except BaseException:
        walk.here.close()
        raise


class _Walk:
    def __init__(self, root: str, is_brought: Brought, kept: Tuple[str, ...], make: bool) -> None:
        self._root, self._is_brought, self._make = root, is_brought, make
        self._kept = tuple(os.path.join(root, name) for name in kept)
        self._links = 0
        self._by: Optional[Tuple[str, str]] = None
        """The first link that was brought, with its target: from there on, nothing leads out."""
        self.here = Folder(os.open(root, _FOLDER), root)

    def to(self, path: str) -> Folder:
        left = _parts(path)
        while left:
            name = left.pop(0)
            try:
                self._enter(name, os.open(name, _FOLDER, dir_fd=self.here.descriptor))
            except FileNotFoundError:
                if not self._make:
                    raise
                self._mkdir(name)
                left.insert(0, name)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) or isinstance(
                    error, LeadsOutError
                ):
                    raise
                left[:0] = self._followed(name, error)
        return self.here

    def _mkdir(self, name: str) -> None:
        try:
            os.mkdir(name, dir_fd=self.here.descriptor)
        except FileExistsError:
            pass  # somebody else has just made it

    def _enter(self, name: str, descriptor: int) -> None:
        path = os.path.dirname(self.here.path) if name == ".." else os.path.join(self.here.path, name)
        self.here.close()
        self.here = Folder(descriptor, path)
        self._refuse_what_is_outside()

    def _refuse_what_is_outside(self) -> None:
        path = self.here.path
        if any(_is_in(path, kept) for kept in self._kept):
            raise LeadsOutError(*(self._by or (path, path)))
        if self._by is not None and not _is_in(path, self._root):
            raise LeadsOutError(*self._by)

    def _followed(self, name: str, error: OSError) -> List[str]:
        """The parts of what the link *name* leads to, seen from where the walk goes on."""
        try:
            target = os.readlink(name, dir_fd=self.here.descriptor)
        except OSError:
            raise error from None  # no link: a file in the way
        self._links += 1
        if self._links > MOST_LINKS:
            raise error
        link = os.path.join(self.here.path, name)
        if self._by is None and self._is_brought(link):
            self._by = (link, target)
        if not os.path.isabs(target):
            return _parts(target)
        start = "/"
        if self._by is not None:
            if not _is_in(os.path.normpath(target), self._root):
                raise LeadsOutError(*self._by)
            start = self._root
        self.here.close()
        self.here = Folder(os.open(start, _FOLDER), start)
        return _parts(os.path.relpath(os.path.normpath(target), start) if start != "/" else target)


def _parts(path: str) -> List[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
