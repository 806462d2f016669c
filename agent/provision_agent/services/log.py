"""A service's output in a file that stays small, without losing its end.

A full file becomes ``<path>.1`` and a new one begins, so that the two together never take more than twice the bound.
One after the other they are the end of what the program has written since it was started, without a gap.
"""

from __future__ import annotations

import os
from typing import Iterator, List

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


def count(path: str, text: str) -> int:
    """How many lines with *text* the bounds of the log have kept."""
    return sum(text in line for line in _lines(path))


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
