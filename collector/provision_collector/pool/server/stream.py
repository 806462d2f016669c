"""The story of one run as this server told it: both sides' events, one JSON line each, the id is the line's number.

Written before anyone sees it and never changed, so a reader may go away and come back at any id, across restarts
of the server. Readers hold a place in the file, never events.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from provision_agent.contract.events import read_event
from provision_agent.contract.parsing import ParseError

CHUNK_BYTES = 1 << 16
_NO_END = 1 << 62


class StreamWriter:
    """The one writer of a stream. Takes up what an earlier process wrote; a torn last line is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_id = 0
        self.is_over = False
        self.listeners: set[asyncio.Event] = set()
        """Set by every event, and by the end."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._length = 0
        for chunk in _chunks(self._descriptor):
            self.last_id += chunk.count(b"\n")
            self._length += len(chunk)
        os.ftruncate(self._descriptor, self._length)

    def append(self, event: Mapping[str, Any]) -> int:
        """Write *event* and wake the readers; returns its id. Raises OSError and leaves no half line."""
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):
                raise OSError(28, "no space left on device")
        except OSError:
            os.ftruncate(self._descriptor, self._length)
            raise
        self._length += len(line)
        self.last_id += 1
        self._wake()
        return self.last_id

    def end(self) -> None:
        """Nothing will follow. Safe to repeat."""
        self.is_over = True
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._wake()

    def _wake(self) -> None:
        for listener in self.listeners:
            listener.set()


class StreamReader:
    """A place in a stream, growing or finished."""

    def __init__(self, path: Path, *, after: int = 0) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._offset = 0
        self.last_id = 0
        """The id of the last event that was read or skipped."""
        for chunk in _chunks(self._descriptor):
            count = chunk.count(b"\n")
            if self.last_id + count > after:
                passed = chunk.splitlines(keepends=True)[: after - self.last_id]
                self.last_id += len(passed)
                self._offset += sum(len(line) for line in passed)
                break
            self.last_id += count
            self._offset += len(chunk)

    def read(self) -> list[tuple[int, bytes]]:
        """The next events as ``(id, JSON)``, about one chunk of them; empty when there is none yet."""
        chunk = _whole_lines(self._descriptor, self._offset)
        self._offset += len(chunk)
        found = []
        for line in chunk.splitlines():
            self.last_id += 1
            found.append((self.last_id, line))
        return found

    def close(self) -> None:
        """Let go of the file. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Every event of a stream so far, an empty one for a line that is none; none when there is no such stream."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for chunk in _chunks(descriptor):
            yield from map(_event, chunk.splitlines())
    finally:
        os.close(descriptor)


def _event(line: bytes) -> dict[str, Any]:
    try:
        return read_event(line) or {}
    except ParseError:
        return {}


def last_id_of(path: Path) -> int:
    """How many events a stream has."""
    reader = StreamReader(path, after=_NO_END)
    reader.close()
    return reader.last_id


def _chunks(descriptor: int) -> Iterator[bytes]:
    """The whole lines of a file from its beginning, many at a time."""
    offset = 0
    while chunk := _whole_lines(descriptor, offset):
        offset += len(chunk)
        yield chunk


def _whole_lines(descriptor: int, offset: int) -> bytes:
    size = CHUNK_BYTES
    while True:
        chunk = os.pread(descriptor, size, offset)
        end = chunk.rfind(b"\n") + 1
        if end or len(chunk) < size:
            return chunk[:end]
        size *= 4  # one event is longer than a chunk
