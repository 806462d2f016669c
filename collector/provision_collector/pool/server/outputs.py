"""What came home of a run, over HTTP: a list of its files, and each of them as a download, never as a page."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from provision_agent.contract.file_messages import is_safe
from starlette.responses import StreamingResponse

MOST_FILES = 100_000
CHUNK_BYTES = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class OutputFile:
    """One file that is home."""

    path: str
    size_bytes: int
    unix: float
    """When it was written there, in seconds since 1970."""


@dataclass(frozen=True)
class OutputFiles:
    """The files of a run that are home; `is_all` is false where there are more than are listed."""

    files: list[OutputFile]
    is_all: bool = True


def listed(folder: Path | None) -> OutputFiles:
    """The files below *folder*, without the records and what is on its way. It blocks as long as the disk does."""
    found: list[OutputFile] = []
    for file in _files(folder, "") if folder is not None else ():
        if len(found) == MOST_FILES:
            return OutputFiles(found, False)
        found.append(file)
    return OutputFiles(found)


def _files(root: Path, folder: str) -> Iterator[OutputFile]:
    try:
        with os.scandir(root / folder) as entries:
            names = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in names:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.name.startswith(".") and (
            entry.name.endswith(".part") or entry.name.startswith(".provision-")
        ):
            continue
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                yield from _files(root, path)
            elif entry.is_file(follow_symlinks=False):
                about = entry.stat(follow_symlinks=False)
                yield OutputFile(path, about.st_size, about.st_mtime)


def opened(folder: Path | None, path: str) -> int | None:
    """A descriptor of the file *path* below *folder*, reached by no link; None where there is none."""
    if folder is None or not is_safe(path) or path.rpartition("/")[2].startswith(".provision-"):
        return None
    *folders, name = path.split("/")
    at = -1
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for each in folders:
            inside = os.open(each, _FOLDER, dir_fd=at)
            os.close(at)
            at = inside
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
    except (OSError, ValueError):
        pass
    finally:
        if at >= 0:
            os.close(at)
    return None


def as_download(descriptor: int, path: str) -> StreamingResponse:
    """The file of *descriptor*, which is closed after it, for browsers to keep and not to show."""
    size, name = os.fstat(descriptor).st_size, path.rpartition("/")[2]
    headers = {
        "content-length": str(size),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "cache-control": "no-store",
    }
    return StreamingResponse(_bytes(descriptor, size), media_type="application/octet-stream", headers=headers)


async def _bytes(descriptor: int, size: int) -> AsyncIterator[bytes]:
    try:
        at = 0
        while at < size and (
            data := await asyncio.to_thread(os.pread, descriptor, min(CHUNK_BYTES, size - at), at)
        ):
            at += len(data)
            yield data
    finally:
        os.close(descriptor)
