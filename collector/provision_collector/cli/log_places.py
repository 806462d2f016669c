"""Where to begin to read a log: at its last lines, or at a time. Every line of a log of a run tells its time."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1 << 16
_HEAD_BYTES = 1 << 10
_LOOK_BYTES = 4 << 20
"""So far it is looked for a line that tells its time."""
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")


def place_of_last(path: Path, count: int) -> int:
    """The offset in bytes of the last *count* lines of the file at *path*; a line without an end counts."""
    with path.open("rb") as file:
        at = size = file.seek(0, os.SEEK_END)
        wanted = count + 1  # the end of the line before them, and that of the last one
        if size:
            file.seek(size - 1)
            wanted -= file.read(1) != b"\n"
        while at > 0 and count > 0:
            begin = max(at - BLOCK_BYTES, 0)
            file.seek(begin)
            block = file.read(at - begin)
            found = block.count(b"\n")
            if found >= wanted:
                for _ in range(wanted):
                    end = block.rfind(b"\n")
                    block = block[:end]
                return begin + len(block) + 1
            wanted, at = wanted - found, begin
    return 0 if count > 0 else size


def place_of_time(path: Path, since: datetime) -> int:
    """The offset in bytes of the first line at *path* that was written at *since* or later.

    The times of a log only grow, so its halves are halved.
    """
    with path.open("rb") as file:
        low, high = 0, file.seek(0, os.SEEK_END)
        while low < high:
            middle = (low + high) // 2
            begin, time = _timed_line(file, middle, high)
            if time is None or time >= since:
                high = middle
            else:
                low = begin + 1
        return _timed_line(file, low, file.seek(0, os.SEEK_END))[0] if low else 0


def _timed_line(file: BinaryIO, at: int, end: int) -> tuple[int, datetime | None]:
    """The first line from *at* on that tells its time: where it begins, and the time; *end* and None where none does."""
    file.seek(max(at - 1, 0))
    if at:
        _skip_line(file)
    while (begin := file.tell()) < min(end, at + _LOOK_BYTES):
        head = file.readline(_HEAD_BYTES)
        match = _TIME.search(head)
        if match is not None:
            return begin, datetime.fromisoformat(match[0].decode())
        if not head.endswith(b"\n"):
            _skip_line(file)
    return end, None


def _skip_line(file: BinaryIO) -> None:
    while (part := file.readline(BLOCK_BYTES)) and not part.endswith(b"\n"):
        pass


def started_in(events: Path) -> datetime | None:
    """When the run with these *events* began, by its instance's clock; None where they do not tell it."""
    try:
        with events.open("rb") as file:
            told = json.loads(file.readline(_LOOK_BYTES))["ts"]
        return datetime.fromisoformat(str(told))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def time_of(text: str, now: datetime) -> datetime:
    """The time that *text* names: ``10m`` ago, ``03:20`` today, ``2026-11-26T03:20`` or with an offset; local without one.

    Raises:
        ValueError: it names none.
    """
    from ..profile.units import duration_s

    try:
        return datetime.fromtimestamp(now.timestamp() - duration_s(text), UTC)
    except ValueError:
        pass
    today = now.astimezone().date().isoformat()
    for form in (text, f"{today}T{text}"):
        try:
            return datetime.fromisoformat(form).astimezone()
        except ValueError:
            continue
    raise ValueError(f"`{text}` is no time: write `10m`, `03:20` or `2026-11-26T03:20`")
