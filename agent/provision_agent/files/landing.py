"""A file that is coming: its part beside its final name, which it gets when its hash is that of the sender."""

from __future__ import annotations

import os
import stat
from typing import Callable, Optional

from ..contract.content import BLOCK_BYTES, Content, part_name
from ..contract.failures import Failure
from ..contract.file_messages import CompleteFile
from ..contract.frames import Bytes, ProtocolError
from ..host.beneath import Folder, open_folder
from ..host.file_lock import FileIsBusyError, try_lock

WRITE_BACK_BYTES = 16 << 20

Reach = Callable[[str], Folder]
"""The folder of the file at this absolute path, made where it is missing and held open."""

SYNCED_FROM_BYTES = 1 << 20
"""Smaller files are not waited for until they are on the disk: a power cut costs no more than sending them again."""


def anywhere(path: str) -> Folder:
    """As `Reach`, for a path that the user named himself."""
    return open_folder("/", os.path.dirname(path), is_brought=lambda link: False)


def sha256_of(folder: Folder, name: str) -> str:
    """The hash of the file *name*. Raises OSError."""
    with os.fdopen(folder.open(name, os.O_RDONLY), "rb", buffering=0) as file:
        return _content_of(file.fileno()).sha256


class Landing:
    """The part of one file, ours alone while it is open. Not for several threads at once."""

    def __init__(self, path: str, reach: Reach) -> None:
        """Open the part of the file at *path*, with what an earlier session left of it.

        Raises:
            Failure: another process writes it, or its folder cannot be used. OSError.
        """
        self._folder = reach(path)
        self._name = os.path.basename(path)
        self._part = part_name(self._name, path)
        try:
            self._descriptor = self._folder.open(self._part, os.O_RDWR | os.O_CREAT, 0o600)
        except BaseException:
            self._folder.close()
            raise
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise Failure("conflict", f"`{self._part}` beside `{path}` is no file", case="path_taken")
            try_lock(self._descriptor)
            self._content = _content_of(self._descriptor)
            self._written_back = self.position
        except FileIsBusyError:
            self.close()
            raise Failure("conflict", f"another process writes `{path}`", retriable=True) from None
        except BaseException:
            self.close()
            raise

    @property
    def position(self) -> int:
        """So many bytes are there."""
        return self._content.position

    @property
    def proof(self) -> str:
        """The sha256 of what is there."""
        return self._content.sha256

    def write(self, offset: int, data: Bytes) -> None:
        """Take bytes: where the last ones ended, beyond a hole, or at 0 to begin anew. Raises OSError, ProtocolError."""
        if offset < self.position:
            if offset:
                raise ProtocolError("bytes of a file came out of their order")
            self._begin_anew()
        self._content.skip_to(offset)
        view, at = memoryview(data), offset
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view, at = view[written:], at + written
        self._content.take(data)
        self._written_back = write_back(self._descriptor, self._written_back, self.position)

    def finish(self, told: CompleteFile, mode: int) -> bool:
        """Give it its final name, if its content is what the sender says; else begin anew.

        Returns:
            Whether it has its final name now. Then it is closed.

        Raises:
            OSError: the name cannot be had.
        """
        if told.size_bytes < self.position:
            self._begin_anew()
        self._content.skip_to(told.size_bytes)
        os.ftruncate(self._descriptor, told.size_bytes)
        if self.proof != told.sha256:
            self._begin_anew()
            return False
        os.fchmod(self._descriptor, mode & 0o777)
        os.utime(self._descriptor, ns=(told.mtime_ns, told.mtime_ns))
        if told.size_bytes >= SYNCED_FROM_BYTES:
            os.fsync(self._descriptor)
        self._folder.replace(self._part, self._name)
        self.close()
        return True

    def discard(self) -> None:
        """Remove the part: it is worth nothing."""
        try:
            self._folder.unlink(self._part)
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Let go of it; what has landed stays for the next session. Safe to repeat."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        self._folder.close()

    def _begin_anew(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._content = Content()
        self._written_back = 0


def write_back(descriptor: int, begun: int, position: int) -> int:
    """Have the system bring to the disk what was written, while more comes: the end then waits for little.

    Args:
        begun: What is before it is on its way already.
        position: What is before it was written.

    Returns:
        The new *begun*.
    """
    if position - begun < WRITE_BACK_BYTES:
        return begun
    try:
        os.posix_fadvise(descriptor, begun, position - begun, os.POSIX_FADV_DONTNEED)
    except (OSError, AttributeError):
        pass  # the end waits for all of it
    return position


def adopt(folder: Folder, name: str, told: CompleteFile, mode: int) -> None:
    """Give the file *name*, whose content is the sender's already, the sender's time and mode. Raises OSError."""
    descriptor = folder.open(name, os.O_RDONLY)
    try:
        os.fchmod(descriptor, mode & 0o777)
        os.utime(descriptor, ns=(told.mtime_ns, told.mtime_ns))
    finally:
        os.close(descriptor)


def make_link(folder: Folder, name: str, target: str) -> bool:
    """Make the link *name* that leads to *target*; False where it is there. Raises OSError."""
    try:
        if os.readlink(name, dir_fd=folder.descriptor) == target:
            return False
    except OSError:
        pass
    temporary = f"{part_name(name, name)}.link"
    folder.remove(temporary)
    os.symlink(target, temporary, dir_fd=folder.descriptor)
    folder.replace(temporary, name)
    return True


def _content_of(descriptor: int) -> Content:
    content = Content()
    while True:
        data = os.pread(descriptor, BLOCK_BYTES, content.position)
        if not data:
            return content
        content.take(data)


def lstat_or_none(folder: Folder, name: str) -> Optional[os.stat_result]:
    """About *name*; None where there is nothing of that name. Raises OSError."""
    try:
        return folder.lstat(name)
    except FileNotFoundError:
        return None
