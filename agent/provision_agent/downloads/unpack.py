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
from typing import IO, Callable, Container, List, NamedTuple, Optional

from ..contract.failures import Failure, disk_failure
from ..contract.parsing import bounded
from ..run.log_lines import size_text

COPY_BYTES = 1 << 20
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
                members = [_zip_member(opened, info) for info in opened.infolist()]
                return _extract(members, folder, stop, wanted)
        with tarfile.open(archive) as tape:
            return _extract([_tar_member(tape, info) for info in tape.getmembers()], folder, stop, wanted)
    except _BROKEN as error:
        raise Failure("not_a_model", f"`{archive}` cannot be unpacked: {error}") from None
    except OSError as error:
        raise disk_failure(error, folder) from None


def _extract(
    members: List[Member], folder: str, stop: Callable[[], bool], wanted: Optional[Container[str]]
) -> List[Unpacked]:
    root = os.path.realpath(folder)
    for member in members:
        _refuse_unsafe(member, root)
    if wanted is not None:
        members = [member for member in members if "/".join(_parts(member.name)) in wanted]
    needed, free = sum(member.size_bytes for member in members), shutil.disk_usage(root).free
    if needed > free:
        raise Failure(
            "disk_full", f"unpacked it needs {size_text(needed)}, `{root}` has {size_text(free)} free"
        )
    written = []
    for member in sorted(members, key=lambda each: each.kind in ("link", "copy")):
        if stop():
            break
        path = os.path.join(root, *_parts(member.name))
        if os.path.commonpath([root, os.path.realpath(os.path.dirname(path))]) != root:
            raise _unsafe(member, "is behind a link that leads out of the folder")
        written.append(_write(member, path, root, stop))
    return written


def _refuse_unsafe(member: Member, root: str) -> None:
    parts = _parts(member.name)
    if member.name.startswith("/") or "\\" in member.name or ".." in parts or "\0" in member.name:
        raise _unsafe(member, "leads out of the folder")
    if member.kind == "other":
        raise _unsafe(member, "is a device or another special file")
    if member.kind == "link":
        target = os.path.normpath(os.path.join(root, *parts[:-1], member.target))
        if os.path.isabs(member.target) or os.path.commonpath([root, target]) != root:
            raise _unsafe(member, f"is a link to `{member.target}`, out of the folder")
    if member.kind == "copy" and (member.target.startswith("/") or ".." in _parts(member.target)):
        raise _unsafe(member, f"is a link to `{member.target}`, out of the folder")


def _write(member: Member, path: str, root: str, stop: Callable[[], bool]) -> Unpacked:
    inside = "/".join(_parts(member.name))
    if member.kind == "folder":
        if os.path.lexists(path) and not os.path.isdir(path):
            os.unlink(path)
        os.makedirs(path, exist_ok=True)
        return Unpacked(inside, "folder")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path) and not os.path.isdir(path):
        os.unlink(path)
    if member.kind == "link":
        os.symlink(member.target, path)
        return Unpacked(inside, "link", target=member.target)
    source = member.open()
    if source is None:
        raise _unsafe(member, "cannot be read")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    digest = hashlib.sha256()
    with source, os.fdopen(os.open(path, flags, 0o755 if member.is_executable else 0o644), "wb") as file:
        while not stop():
            piece = source.read(COPY_BYTES)
            if not piece:
                break
            digest.update(piece)
            file.write(piece)
    found = os.lstat(path)
    return Unpacked(
        inside,
        size_bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        sha256=digest.hexdigest(),
        is_executable=member.is_executable,
    )


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
