"""Unpack an archive into its folder, and nowhere else.

Every member is looked at before the first is written: no absolute path, no `..`, no link that leads out, no
device. Nothing is written through a link.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, Callable, Container, Dict, List, NamedTuple, Optional, Set

from ..contract.failures import Failure, disk_failure
from ..contract.parsing import bounded
from ..host.beneath import Folder, LeadsOutError, open_folder
from ..host.folders import ignores_case
from ..run.log_lines import size_text
from . import tape_header

COPY_BYTES = 1 << 20
MOST_MEMBERS = 1_000_000
MOST_FOLD, FREE_BYTES = 200, 256 << 20
"""An archive may bring `FREE_BYTES`, and beyond that so many times its own size: no real one comes near."""
_WINDOWS = (0, 10, 11, 14)
"""Who made a member of a zip: MS-DOS, NTFS by its two numbers, VFAT (APPNOTE 4.4.2)."""
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class Member(NamedTuple):
    """One file, folder or link of an archive."""

    name: str
    kind: str
    """file | folder | link | copy (a hard link) | other"""
    size_bytes: int
    target: str
    is_executable: bool
    open: Callable[[], Optional[IO[bytes]]]


@dataclass(frozen=True)
class Unpacked:
    """One file, folder or link as it was written."""

    path: str = bounded(max_chars=8192)
    """Relative to the folder."""
    kind: str = bounded("file", one_of=("file", "folder", "link"))
    size_bytes: int = bounded(0, low=0)
    mtime_ns: int = bounded(0, low=-(2**63), high=2**63)
    sha256: str = bounded("", max_chars=64)
    """Of a file."""
    target: str = bounded("", max_chars=8192)
    """Of a link."""
    is_executable: bool = False


def unpack(
    archive: str,
    folder: str,
    kind: str,
    *,
    stop: Callable[[], bool],
    wanted: Optional[Container[str]] = None,
) -> List[Unpacked]:
    """Unpack *archive* into *folder*; existing files are replaced, the archive is kept.

    Args:
        kind: ``zip``, ``tar``, or ``auto``: by content.
        stop: Asked between pieces; True ends it early.
        wanted: Paths relative to *folder*, of the only members to write; None means all.

    Returns:
        What was written.

    Raises:
        Failure: `not_a_model` for what is no such archive, `unsafe_path`, `disk_full` or `read_only`.
    """
    try:
        if kind == "zip" or (kind == "auto" and zipfile.is_zipfile(archive)):
            with zipfile.ZipFile(archive) as opened:
                _refuse_number(len(opened.infolist()))
                members = [_zip_member(opened, info) for info in opened.infolist()]
                return _extract(members, folder, os.path.getsize(archive), stop, wanted)
        with tarfile.open(archive, tarinfo=tape_header.BoundedHeader) as tape:
            members = [_tar_member(tape, info) for info in tape_header.headers(tape, stop, _refuse_number)]
            return _extract(_with_copies(members), folder, os.path.getsize(archive), stop, wanted)
    except _BROKEN as error:
        raise Failure("not_a_model", f"`{archive}` cannot be unpacked: {error}") from None
    except OSError as error:
        raise disk_failure(error, folder) from None


def _extract(
    members: List[Member],
    folder: str,
    archive_bytes: int,
    stop: Callable[[], bool],
    wanted: Optional[Container[str]],
) -> List[Unpacked]:
    root = os.path.realpath(folder)
    for member in members:
        _refuse_unsafe(member)
    _refuse_one_name_twice(members, root)
    if wanted is not None:
        members = [member for member in members if "/".join(_parts(member.name)) in wanted]
    count = _Count(archive_bytes)
    needed, free = sum(member.size_bytes for member in members), shutil.disk_usage(root).free
    count.refuse_too_much(needed)
    if needed > free:
        raise Failure(
            "disk_full", f"unpacked it needs {size_text(needed)}, `{root}` has {size_text(free)} free"
        )
    written = []
    for member in sorted(members, key=lambda each: each.kind in ("link", "copy")):
        if stop():
            break
        parts = _parts(member.name)
        try:
            with open_folder(
                root, "/".join(parts[:-1]), is_brought=lambda link: True, kept=(".provision",)
            ) as at:
                written.append(_write(member, at, parts[-1] if parts else ".", count, stop))
        except LeadsOutError:
            raise _unsafe(member, "is behind a link that leads out of the folder") from None
    return written


class _Count:
    """What has landed of an archive: its own word is not all that counts."""

    def __init__(self, archive_bytes: int) -> None:
        self._archive_bytes = archive_bytes
        self._most_bytes = max(FREE_BYTES, MOST_FOLD * archive_bytes)
        self.landed_bytes = 0

    def add(self, count: int) -> None:
        self.landed_bytes += count
        self.refuse_too_much(self.landed_bytes)

    def refuse_too_much(self, size_bytes: int) -> None:
        if size_bytes > self._most_bytes:
            told = f"{size_text(self._archive_bytes)} would become {size_text(size_bytes)}"
            raise Failure(
                "unsafe_path", f"the archive is not what it seems: its {told}", case="unsafe_archive"
            )


def _refuse_number(count: int) -> None:
    if count > MOST_MEMBERS:
        message = f"the archive has more than {MOST_MEMBERS} members"
        raise Failure("unsafe_path", message, case="unsafe_archive")


def _with_copies(members: List[Member]) -> List[Member]:
    """*members* with every hard link as the file that it stands for: it brings as many bytes."""
    by_name = {"/".join(_parts(member.name)): member for member in members if member.kind == "file"}
    links = {"/".join(_parts(member.name)): member for member in members if member.kind == "copy"}
    found: List[Member] = []
    for member in members:
        passed: Set[str] = set()
        source: Optional[Member] = member
        while source is not None and source.kind == "copy":
            target = "/".join(_parts(source.target))
            source = by_name.get(target) or (links.get(target) if target not in passed else None)
            passed.add(target)
        if source is None:
            raise _unsafe(
                member, f"is a hard link to `{member.target[:120]}`, which is no file of the archive"
            )
        if source is not member:
            member = member._replace(
                size_bytes=source.size_bytes, is_executable=source.is_executable, open=source.open
            )
        found.append(member)
    return found


def _refuse_one_name_twice(members: List[Member], root: str) -> None:
    """Names that differ in case only would take each other's place where the file system does not tell them apart."""
    seen: Dict[str, str] = {}
    for member in members:
        name = "/".join(_parts(member.name))
        other = seen.setdefault(name.casefold(), name)
        if other != name and ignores_case(root):
            raise _unsafe(
                member, f"and `{other[:120]}` are one name in this folder, which does not tell cases apart"
            )


def _refuse_unsafe(member: Member) -> None:
    parts = _parts(member.name)
    if member.name.startswith("/") or "\\" in member.name or ".." in parts or "\0" in member.name:
        raise _unsafe(member, "leads out of the folder")
    if member.kind == "other":
        raise _unsafe(member, "is a device or another special file")
    if member.kind == "link":
        way = [part for part in member.target.split("/") if part not in ("", ".")]
        up = next((number for number, part in enumerate(way) if part != ".."), len(way))
        # `..` behind a name would be judged by what that name is, which another link may change
        if (
            os.path.isabs(member.target)
            or ".." in way[up:]
            or up > len(parts) - 1
            or not (member.target and parts)
        ):
            raise _unsafe(member, f"is a link to `{member.target}`, out of the folder")
    if member.kind == "copy" and (member.target.startswith("/") or ".." in _parts(member.target)):
        raise _unsafe(member, f"is a link to `{member.target}`, out of the folder")


def _write(member: Member, at: Folder, name: str, count: _Count, stop: Callable[[], bool]) -> Unpacked:
    inside = "/".join(_parts(member.name))
    if member.kind == "folder":
        if name != "." and not _is_folder(at, name, follows=True):
            at.remove(name)
            os.mkdir(name, dir_fd=at.descriptor)
        return Unpacked(inside, "folder")
    if not _is_folder(at, name):
        at.remove(name)
    if member.kind == "link":
        os.symlink(member.target, name, dir_fd=at.descriptor)
        return Unpacked(inside, "link", target=member.target)
    source = member.open()
    if source is None:
        raise _unsafe(member, "cannot be read")
    digest, mode = hashlib.sha256(), 0o755 if member.is_executable else 0o644
    with source, os.fdopen(at.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        while not stop():
            piece = source.read(COPY_BYTES)
            if not piece:
                break
            count.add(len(piece))
            digest.update(piece)
            file.write(piece)
    found = at.lstat(name)
    return Unpacked(
        inside,
        size_bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        sha256=digest.hexdigest(),
        is_executable=member.is_executable,
    )


def _is_folder(at: Folder, name: str, *, follows: bool = False) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=at.descriptor, follow_symlinks=follows).st_mode)
    except OSError:
        return False


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16
    # programs of Windows write its own stroke between folders, against the format's rule (APPNOTE 4.4.17.1)
    name = info.filename.replace("\\", "/") if info.create_system in _WINDOWS else info.filename
    kind = "folder" if name.endswith("/") else "link" if stat.S_ISLNK(mode) else "file"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        kind = "other"
    target = archive.read(info).decode("utf-8", "replace") if kind == "link" and info.file_size < 4096 else ""
    return Member(name, kind, info.file_size, target, bool(mode & 0o100), lambda: archive.open(info))


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    kinds = (
        (info.isdir(), "folder"),
        (info.issym(), "link"),
        (info.islnk(), "copy"),
        (info.isfile(), "file"),
    )
    kind = next((name for fits, name in kinds if fits), "other")
    return Member(
        info.name, kind, info.size, info.linkname, bool(info.mode & 0o100), lambda: archive.extractfile(info)
    )


def _parts(name: str) -> List[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _unsafe(member: Member, why: str) -> Failure:
    return Failure("unsafe_path", f"the archive's `{member.name[:120]}` {why}", case="unsafe_archive")
