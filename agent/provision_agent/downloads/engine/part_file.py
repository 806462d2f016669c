"""A file on its way: `NAME.part`, and beside it the journal of what has landed in it.

The journal gets a line after each write, so even SIGKILL costs no more than what was in the connections' buffers.
It says of which content the bytes are; other content never joins them. A lock keeps a second process out.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import List, NamedTuple, Optional

from ...contract.failures import Failure, disk_failure
from ...host.beneath import Folder, open_folder
from ...host.detach import boot_id
from ...host.file_lock import FileIsBusyError, try_lock
from ...run.state import write_in
from . import room
from .ranges import Span, merged

PART = ".part"
"""What the name of a file on its way ends with."""
_SYNCED = b"synced\n"


class Identity(NamedTuple):
    """Of which content the bytes are, as far as known."""

    size_bytes: Optional[int]
    sha256: Optional[str]
    validator: Optional[str]
    source: str
    """A digest of the URL: the URL itself may open doors."""

    @classmethod
    def of(
        cls, url: str, size_bytes: Optional[int], sha256: Optional[str], validator: Optional[str]
    ) -> Identity:
        return cls(size_bytes, sha256, validator, hashlib.sha256(url.encode()).hexdigest()[:16])

    def is_same_content(self, other: Identity) -> bool:
        """Surely one content: equal size and hash; without a hash, one source's equal ETag or date."""
        if self.size_bytes is None or self.size_bytes != other.size_bytes:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        if self.validator is None or self.validator != other.validator:
            return False
        return self.source == other.source or self.validator.startswith('"')


class Busy(Exception):
    """Another process is fetching this file."""


class PartFile:
    """`NAME.part`, locked by this process. Writing is safe from any thread; the rest belongs to one."""

    def __init__(self, final_path: str, folder: Optional[Folder] = None) -> None:
        """Lock the part of *final_path*, making it if there is none.

        Args:
            folder: The one that it lies in, as it was reached; closed with the part. None: as the path says.

        Raises:
            Busy: another process has it.
            Failure: `disk_full` or `read_only`.
        """
        self.path = final_path + ".part"
        self._journal_path = final_path + ".part.journal"
        self._journal: Optional[int] = None
        self.identity: Optional[Identity] = None
        self._name, self._journal_name = map(os.path.basename, (self.path, self._journal_path))
        try:
            self._folder = folder or open_folder(
                "/", os.path.dirname(os.path.abspath(final_path)), is_brought=_by_nobody
            )
            self.descriptor = self._folder.open(self._name, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if folder is not None:
                folder.close()
            raise disk_failure(error, self.path) from None
        try:
            self.is_locked = try_lock(self.descriptor)
            """False where the file system cannot lock."""
            if not self._is_still_there():
                raise FileIsBusyError  # the one who had it gave it its final name between open and lock
        except (FileIsBusyError, OSError):
            os.close(self.descriptor)
            self._folder.close()
            raise Busy(self.path) from None

    def begin(self, identity: Identity) -> List[Span]:
        """Make room for the content *identity*.

        Returns:
            The spans of it that are already there, none unless they are surely of the same content.

        Raises:
            Failure: `disk_full` or `read_only`.
        """
        landed = self._landed(identity)
        try:
            if not landed:
                os.ftruncate(self.descriptor, 0)
            self._close_journal()
            lines = [
                json.dumps(dict(identity._asdict(), boot=boot_id())),
                *(f"{a} {b - a}" for a, b in landed),
                "",
            ]
            write_in(self._folder, self._journal_name, "\n".join(lines).encode(), sync=False)
            self._journal = self._folder.open(self._journal_name, os.O_WRONLY | os.O_APPEND)
            if identity.size_bytes:
                room.reserve(self.descriptor, identity.size_bytes)
        except OSError as error:
            raise disk_failure(error, self.path) from None
        self.identity = identity
        return landed

    def write(self, view: memoryview, offset: int) -> None:
        """Put *view* at *offset* and note it in the journal.

        Raises:
            Failure: `disk_full` or `read_only`.
        """
        assert self._journal is not None
        count, at = len(view), offset
        try:
            while view:
                written = os.pwrite(self.descriptor, view, at)
                view, at = view[written:], at + written
            os.write(self._journal, b"%d %d\n" % (offset, count))
        except OSError as error:
            raise disk_failure(error, self.path) from None

    def finish(self, final_path: str, size_bytes: int, *, sync: bool = True) -> None:
        """Give the file its final name: it is whole, it is right, and it is on the disk.

        Args:
            sync: It outlives a crash of the machine; else whoever finds it later reads it before it is believed.

        Raises:
            Failure: `disk_full` or `read_only`.
        """
        try:
            os.ftruncate(self.descriptor, size_bytes)
            if sync:
                os.fsync(self.descriptor)
            if not self._is_still_there():
                raise Failure("read_only", f"somebody took `{self.path}` away", case="part_taken")
            self._forget_journal()  # before the name is free: it might be the next process's journal then
            self._folder.replace(self._name, os.path.basename(final_path))
            if sync:
                self._folder.sync()
        except OSError as error:
            raise disk_failure(error, final_path) from None

    def discard(self) -> None:
        """Forget what has landed: it is not what it should be."""
        self.identity = None
        self._forget_journal()
        try:
            os.ftruncate(self.descriptor, 0)
        except OSError:
            pass  # without its journal it counts for nothing anyway

    def remove(self) -> None:
        """Take the part and its journal off the disk."""
        self.discard()
        try:
            self._folder.unlink(self._name)
        except OSError:
            pass  # the folder cannot be written any more; an empty part harms nobody

    def close(self, *, sync: bool) -> None:
        """Unlock it and keep what has landed, if it can be continued; *sync* makes it outlive a crash of the machine."""
        try:
            is_empty = os.fstat(self.descriptor).st_size == 0
            is_useless = self.identity is not None and self.identity.size_bytes is None
            if (is_empty or is_useless) and self._is_still_there():
                self.remove()
            if sync and self._journal is not None:
                os.fdatasync(self.descriptor)
                os.write(self._journal, _SYNCED)
                os.fdatasync(self._journal)
        except OSError:
            pass  # then the next run fetches more than it had to
        self._close_journal()
        os.close(self.descriptor)
        self._folder.close()

    def _landed(self, identity: Identity) -> List[Span]:
        """What the journal says is there and the file is long enough for."""
        try:
            with os.fdopen(self._folder.open(self._journal_name, os.O_RDONLY), "rb") as file:
                *lines, _torn = file.read().split(b"\n")
            head = json.loads(lines[0])
            is_other_boot = head.pop("boot", None) != boot_id()
            found = Identity(**head)
        except (OSError, ValueError, TypeError, IndexError, AttributeError):
            return []
        if not found.is_same_content(identity):
            return []
        if is_other_boot and not (found.sha256 and identity.sha256):
            # the machine went down: without a hash to prove it, only what was synced surely reached the disk
            lines = lines[: len(lines) - lines[::-1].index(b"synced")] if b"synced" in lines else []
        size = os.fstat(self.descriptor).st_size
        return [span for span in merged(_spans(lines[1:])) if span[1] <= size]

    def _is_still_there(self) -> bool:
        try:
            return os.path.samestat(self._folder.lstat(self._name), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False

    def _forget_journal(self) -> None:
        self._close_journal()
        try:
            self._folder.unlink(self._journal_name)
        except OSError:
            pass  # there was none

    def _close_journal(self) -> None:
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None


def landed_bytes(final_path: str) -> int:
    """How many bytes of *final_path* an earlier run left behind, as its journal tells: they need not be fetched again."""
    try:
        size = os.stat(final_path + ".part").st_size
        with open(final_path + ".part.journal", "rb") as file:
            _head, *lines, _torn = file.read().split(b"\n")
    except (OSError, ValueError):
        return 0
    return sum(min(end, size) - begin for begin, end in merged(_spans(lines)) if begin < size)


def reserved_bytes(final_path: str) -> int:
    """How much of the disk the part of *final_path* takes already: its bytes, and the room that waits for the others."""
    try:
        return os.stat(final_path + ".part").st_blocks * room.BLOCK_BYTES
    except OSError:
        return 0


def _spans(lines: List[bytes]) -> "List[Span]":
    spans = []
    for line in lines:
        offset, _, length = line.partition(b" ")
        if offset.isdigit() and length.isdigit():
            spans.append((int(offset), int(offset) + int(length)))
    return spans


def _by_nobody(link: str) -> bool:
    return False
