"""A service's output in a file that stays small, without losing its end.

A full file becomes ``<path>.1`` and a new one begins, so that the two together never take more than twice the bound.
One after the other they are the end of what the program has written since it was started, without a gap.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import BinaryIO, Iterator, List, NamedTuple, Optional

MAX_BYTES = 16 << 20
_TAIL_BYTES = 64 << 10
_MAX_LINE_BYTES = 64 << 10
STARTED_AGAIN = "[supervise] ended with"
"""How the supervisor's own line begins between two lives of the program."""


class BoundedLog:
    """The log at *path*, for the one process that writes it."""

    def __init__(self, path: str, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._open()

    def write(self, data: bytes) -> None:
        """Append *data*. A disk that takes no more costs the lines, never the service."""
        try:
            while data:
                room = max(0, self._max_bytes - self._size)
                fits = len(data) if len(data) <= room else data.rfind(b"\n", 0, room) + 1
                if not fits and not self._size:
                    fits = room  # a line that no file holds whole
                written = os.write(self._file, data[:fits]) if fits else 0
                self._size += written
                data = data[written:]
                if data and written == fits:
                    self._begin_anew()
        except OSError:
            return

    def _begin_anew(self) -> None:
        os.replace(self._path, _older(self._path))
        os.close(self._file)
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size


def set_previous_aside(path: str) -> None:
    """Before a new start: what is at *path* is of the life before, and is kept as ``<path>.previous``."""
    for old, new in ((path, f"{path}.previous"), (_older(path), None)):
        try:
            os.unlink(old) if new is None else os.replace(old, new)
        except FileNotFoundError:
            continue


def last_lines(path: str, count: int) -> List[str]:
    """The last *count* lines that the program has written since it was started."""
    text = b"".join(_end_of(each) for each in (_older(path), path))
    return text.decode("utf-8", "replace").splitlines()[-count:]


def since_start(path: str) -> Iterator[str]:
    """The lines that the program has written since its last start, as far as the bounds of its log have kept them."""
    begin = 0
    for number, line in enumerate(_lines(path)):
        if line.startswith(STARTED_AGAIN):
            begin = number + 1
    return (line for number, line in enumerate(_lines(path)) if number >= begin)


class Said(NamedTuple):
    """How often something was said in a log, up to a place in it."""

    times: int
    inode: int = 0
    offset: int = 0
    """In bytes."""
    line: bytes = b""
    """The one before that place: an inode may be another file's by now."""


def said(path: str, text: str, since: Optional[Said] = None) -> Said:
    """How often the log at *path* has *text*, which is within one line. Only what came after *since* is read.

    Where the log has left that place behind, it is another number than that of *since*, whatever was said.
    """
    needle = text.encode()
    with ExitStack() as opened:
        files = [
            opened.enter_context(file) for file in (_opened(each) for each in (_older(path), path)) if file
        ]
        place = Said(0) if since is None else Said(since.times + 1)
        found = [number for number, file in enumerate(files) if since is not None and _is_at(file, since)]
        if since is not None and found:
            place = since
            del files[: found[0]]
        for file in files:
            inode = os.fstat(file.fileno()).st_ino
            place = _read_on(file, needle, place if inode == place.inode else Said(place.times, inode))
    return place


def _is_at(file: BinaryIO, place: Said) -> bool:
    if os.fstat(file.fileno()).st_ino != place.inode:
        return False
    file.seek(place.offset - len(place.line))
    return file.read(len(place.line)) == place.line


def _read_on(file: BinaryIO, needle: bytes, place: Said) -> Said:
    file.seek(place.offset)
    while True:
        line = file.readline(_MAX_LINE_BYTES)
        if not line.endswith(b"\n") and len(line) < _MAX_LINE_BYTES:
            return place  # the rest of the line is still to come
        place = Said(place.times + line.count(needle), place.inode, place.offset + len(line), line)


def _opened(path: str) -> "Optional[BinaryIO]":
    try:
        return open(path, "rb")
    except OSError:
        return None


def _lines(path: str) -> Iterator[str]:
    for each in (_older(path), path):
        try:
            with open(each, "rb") as file:
                while True:
                    line = file.readline(_MAX_LINE_BYTES)
                    if not line:
                        break
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
        except OSError:
            continue


class Growth:
    """Says whether the log at *path* has grown. What an access log writes of our own asking for *address* is nothing."""

    def __init__(self, path: str, address: str) -> None:
        self._path = path
        self._own = address.encode()
        self._at = self._size()

    def has_come(self) -> bool:
        """True when the program has said something since the last time."""
        size = self._size()
        if size == self._at:
            return False
        begin, self._at = (self._at if size > self._at else 0), size
        try:
            with open(self._path, "rb") as file:
                file.seek(begin)
                data = file.read(_TAIL_BYTES)
        except OSError:
            return True  # it begins anew just now
        return any(line.strip() and not self._is_own(line) for line in data.splitlines())

    def _is_own(self, line: bytes) -> bool:
        return self._own in line and b"GET" in line

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0


def _older(path: str) -> str:
    return f"{path}.1"


def _end_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read()
    except OSError:
        return b""
