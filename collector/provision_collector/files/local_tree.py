"""Files that come from an instance, in one folder here and nowhere else. Everything in it may block.

A name is walked part by part and no link on the way is followed. A file has its final name when its hash is the sender's;
what somebody else put there, or changed since, is kept beside it. What arrived is written down in the folder itself.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from provision_agent.contract.content import part_name
from provision_agent.contract.file_messages import (
    FOLDER,
    CompleteFile,
    FileTold,
    Wanted,
    is_safe,
    link_leads_out,
)
from provision_agent.contract.frames import Bytes, ProtocolError
from provision_agent.contract.parsing import ParseError, bounded, parse, read_object, to_json

from ..errors import LocalMachineError, UsageError
from ..mirror import RESERVE_BYTES
from ..storage import LockBusyError, lock, open_private
from .local_part import Part

RECORD = ".provision-files.jsonl"
MAX_RECORD_BYTES = 1 << 30
SYNCED_FROM_BYTES = 1 << 20
"""Smaller files that are copied by hand are not waited for until they are on the disk, as `cp` and `rsync` do not."""
MOST_UNSYNCED, SYNCED_AT_ONCE = 64, 8
"""So many files are brought to the disk together, and so many of them at once."""


class RefusedHereError(Exception):
    """This machine does not take a file; `class_` is one of `FAILURES`, `case` one of `CASES`."""

    def __init__(self, class_: str, message: str, case: str | None = None) -> None:
        super().__init__(message)
        self.class_ = class_
        self.case = case


@dataclass(frozen=True)
class Arrived:
    """One file that is here: its path there and here, and what it was when its hash was compared."""

    remote: str = bounded(max_chars=4096)
    local: str = bounded(max_chars=8192)
    size_bytes: int = bounded(low=0)
    mtime_ns: int = bounded(low=-(2**63), high=2**63)
    sha256: str = bounded(max_chars=64)


class LocalTree:
    """The folder *root*, for the files of *owner*; one process at a time.

    Args:
        also: What an earlier release called the same owner.
        max_bytes: Of all that came, together. None: no cap but the disk's reserve.
        is_bare: By hand: no record is kept, links are made, and what is there is replaced, as `cp` does.
        single: The name of the file of an item that is one file. prefix: The folder in it that others go below.
    """

    def __init__(
        self,
        root: Path,
        *,
        owner: str = "",
        also: str = "",
        max_bytes: int | None = None,
        is_bare: bool = False,
        single: str = "",
        prefix: str = "",
    ) -> None:
        self.root = root
        self._single = single
        self._prefix = f"{prefix}/" if prefix else ""
        self._owner = owner
        self._owners = (owner, also or owner)
        self._max_bytes = max_bytes
        self._is_bare = is_bare
        self._descriptor = -1
        self._record = -1
        self._arrived: dict[str, Arrived] = {}
        self._arrived_bytes = 0
        self._taken: dict[str, str] = {}
        """Which remote file has a local name, by the name as a disk that ignores case has it."""
        self._parts: dict[str, Part] = {}
        self._coming: dict[str, int] = {}
        self._coming_bytes = 0
        self._unsynced: list[Part] = []
        """Those that have their final name, and are perhaps not on the disk yet."""
        self._unrecorded: list[Arrived] = []

    def open(self) -> None:
        """Make it, and take it for this process.

        Raises:
            UsageError: it belongs to another instance's files. LocalMachineError: it cannot be used.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if not self._is_bare:
                self._record = open_private(self.root / RECORD, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
                lock(self._record, self.root / RECORD, wait_s=0.0)
                self._read_record()
        except LockBusyError:
            self.close()
            raise LockBusyError(
                f"another process takes files into `{self.root}`", hint="stop it, or choose another folder"
            ) from None
        except OSError as error:
            self.close()
            raise LocalMachineError(
                f"`{self.root}` cannot be used: {(error.strerror or str(error)).lower()}",
                hint="choose another folder, one that you may write",
            ) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it. Safe to repeat."""
        with suppress(OSError):
            self.sync()
        for part in self._parts.values():
            part.close()
        self._parts.clear()
        for descriptor in (self._descriptor, self._record):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._record = -1

    @property
    def held_bytes(self) -> int:
        """Of all that is here and on its way."""
        return self._arrived_bytes + self._coming_bytes

    def wanted(self, told: FileTold) -> Wanted | None:
        """What is wanted of a file; None: it is here.

        Raises:
            RefusedHereError: it may not come. OSError.
        """
        known = self._arrived.get(told.path)
        local = self._name_of(told.path)
        is_there = self._is_as_it_came(known) if known is not None else False
        if (
            known is not None
            and is_there
            and (known.size_bytes, known.mtime_ns) == (told.size_bytes, told.mtime_ns)
        ):
            return None
        self.leave(told)
        self._refuse_too_big(told)
        with self._folder_of(local) as (folder, name):
            there = _lstat(folder, name)
            if there is not None and stat.S_ISDIR(there.st_mode):
                raise RefusedHereError("conflict", f"`{self.root / local}` is a folder here")
            if there is not None and stat.S_ISREG(there.st_mode) and there.st_size == told.size_bytes:
                return Wanted(told.n, has=_sha256(folder, name))
            begun = _lstat(folder, part_name(name, name))
            part = Part(folder, name) if begun is not None and begun.st_size else None
        self._coming[told.path] = told.size_bytes
        self._coming_bytes += told.size_bytes
        if part is None:
            return Wanted(told.n)
        self._parts[told.path] = part
        return Wanted(told.n, part.position, part.proof)

    def write(self, told: FileTold, offset: int, data: Bytes) -> None:
        """Take bytes of a file. Raises OSError, ProtocolError."""
        part = self._parts.get(told.path)
        if part is None:
            local = self._name_of(told.path)
            with self._folder_of(local) as (folder, name):
                part = self._parts[told.path] = Part(folder, name)
        if offset + len(data) > max(told.size_bytes, 1) and self._max_bytes is not None:
            raise ProtocolError("a file is longer than it was said to be")
        part.write(offset, data)

    def finish(self, told: FileTold, complete: CompleteFile) -> bool:
        """Give the file its final name, if its content is what the sender says. Raises OSError, RefusedHereError."""
        local = self._name_of(told.path)
        if not complete.is_same:
            part = self._parts.get(told.path)
            if part is None:
                with self._folder_of(local) as (folder, name):
                    part = self._parts[told.path] = Part(folder, name)
            if not part.is_whole(complete):
                return False
            self._make_way(told.path, local)
            part.name(complete, told.mode)
            del self._parts[told.path]
            self._unsynced.append(part)
        self._comes_no_more(told)
        file = Arrived(told.path, local, complete.size_bytes, complete.mtime_ns, complete.sha256)
        self._keep(file)
        self._unrecorded.append(file)
        if len(self._unsynced) >= MOST_UNSYNCED:
            self.sync()
        return True

    def sync(self) -> None:
        """Return when all that has its final name is on the disk, and written down. Raises OSError."""
        parts, self._unsynced = self._unsynced, []
        files, self._unrecorded = self._unrecorded, []
        late = [part for part in parts if not self._is_bare or part.position >= SYNCED_FROM_BYTES]
        try:
            if len(late) > 1:
                with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
                    for _ in pool.map(Part.sync, late):  # the disk does many as fast as one
                        pass
            elif late:
                late[0].sync()
        finally:
            for part in parts:
                part.close()
        if self._record >= 0 and files:
            text = "".join(json.dumps(to_json(file)) + "\n" for file in files)
            os.write(self._record, text.encode())

    def discard(self, told: FileTold) -> None:
        """What came of a file is worth nothing."""
        part = self._parts.pop(told.path, None)
        if part is not None:
            part.discard()
        self._comes_no_more(told)

    def leave(self, told: FileTold) -> None:
        """A file does not come now; what came of it stays for the next time. Safe to repeat."""
        part = self._parts.pop(told.path, None)
        if part is not None:
            part.close()
        self._comes_no_more(told)

    def _comes_no_more(self, told: FileTold) -> None:
        self._coming_bytes -= self._coming.pop(told.path, 0)

    def make(self, told: FileTold) -> None:
        """Make a folder or a link, where this tree is one by hand. Raises RefusedHereError, OSError."""
        if not self._is_bare:
            return
        with self._folder_of(self._prefix + told.path) as (folder, name):
            if told.kind == FOLDER:
                with suppress(FileExistsError):
                    os.mkdir(name, told.mode & 0o777 | 0o700, dir_fd=folder)
                return
            if link_leads_out(told.path, told.target):
                raise RefusedHereError(
                    "unsafe_path", f"the link `{told.path}` leads out of what is sent, to `{told.target}`"
                )
            with suppress(FileNotFoundError):
                if not stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise RefusedHereError("conflict", f"`{self.root / told.path}` is there, and is no link")
                os.unlink(name, dir_fd=folder)
            os.symlink(told.target, name, dir_fd=folder)

    def name_here(self, remote: str) -> str:
        """The path of a file below `root`; its own where it has not come."""
        known = self._arrived.get(remote)
        return known.local if known is not None else remote or self._single

    # -- names

    def _name_of(self, remote: str) -> str:
        """Where a file goes here: its own path, or one beside it where another file has that name."""
        known = self._arrived.get(remote)
        if known is not None:
            return known.local
        own = self._prefix + remote if remote else self._single
        name, number = own, 1
        while self._taken.setdefault(_folded(name), remote) != remote or name == RECORD:
            number += 1
            stem, dot, ending = own.rpartition(".")
            is_ending = bool(dot) and "/" not in ending and bool(stem) and not stem.endswith("/")
            name = f"{stem}~{number}.{ending}" if is_ending else f"{own}~{number}"
        return name

    @contextmanager
    def _folder_of(self, local: str) -> Iterator[tuple[int, str]]:
        """The folder of a file, made where it is missing, and the file's name in it."""
        *folders, name = local.split("/")
        if not is_safe(local):
            raise RefusedHereError("unsafe_path", "a path that leads out of the folder")
        at = os.dup(self._descriptor)
        try:
            for folder in folders:
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o755, dir_fd=at)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                try:
                    inside = os.open(folder, flags, dir_fd=at)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        message = f"`{folder}` in `{self.root}` is no folder of its own: nothing is written through it"
                        raise RefusedHereError("unsafe_path", message) from None
                    raise
                os.close(at)
                at = inside
            yield at, name
        finally:
            os.close(at)

    def _make_way(self, remote: str, local: str) -> None:
        """What lies at *local* and is not what came from there is kept under another name."""
        if self._is_bare:
            return
        known = self._arrived.get(remote)
        with self._folder_of(local) as (folder, name):
            there = _lstat(folder, name)
            if there is None or (known is not None and self._is_as_it_came(known)):
                return
            number = 1
            while _lstat(folder, f"{name}.kept-{number}") is not None:
                number += 1
            os.rename(name, f"{name}.kept-{number}", src_dir_fd=folder, dst_dir_fd=folder)

    def _is_as_it_came(self, known: Arrived) -> bool:
        try:
            with self._folder_of(known.local) as (folder, name):
                there = _lstat(folder, name)
        except (OSError, RefusedHereError):
            return False
        return (
            there is not None
            and stat.S_ISREG(there.st_mode)
            and (there.st_size, there.st_mtime_ns) == (known.size_bytes, known.mtime_ns)
        )

    def _refuse_too_big(self, told: FileTold) -> None:
        name = told.path or self._single
        if self._max_bytes is not None and self.held_bytes + told.size_bytes > self._max_bytes:
            most = f"more than `--max-outputs` ({self._max_bytes / 1e6:.1f} MB) would be in `{self.root}`"
            raise RefusedHereError("disk_full", f"{most} with `{name}`", "capped_here")
        if shutil.disk_usage(self.root).free - told.size_bytes - self._coming_bytes < RESERVE_BYTES:
            free = f"{RESERVE_BYTES >> 20} MiB of `{self.root}` stay free"
            message = f"no room here for `{name}` ({told.size_bytes / 1e6:.1f} MB): {free}"
            raise RefusedHereError("disk_full", message, "full_here")

    # -- the record

    def _read_record(self) -> None:
        lines = os.pread(self._record, MAX_RECORD_BYTES, 0).split(b"\n")
        first = lines[0]
        if not first:
            os.write(self._record, json.dumps({"owner": self._owner}).encode() + b"\n")
            return
        owner = str(read_object(first, max_bytes=1 << 16, what="the record").get("owner"))
        if owner not in self._owners:
            raise UsageError(
                f"`{self.root}` holds files of {owner}",
                hint="choose another folder for the files of this one",
            )
        for line in lines[1:]:
            with suppress(ParseError):
                file = parse(Arrived, read_object(line, max_bytes=1 << 16, what="a line"), "record")
                self._keep(file)
        for file in self._arrived.values():
            self._taken[_folded(file.local)] = file.remote

    def _keep(self, file: Arrived) -> None:
        before = self._arrived.get(file.remote)
        self._arrived_bytes += file.size_bytes - (before.size_bytes if before is not None else 0)
        self._arrived[file.remote] = file


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _lstat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _sha256(folder: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
