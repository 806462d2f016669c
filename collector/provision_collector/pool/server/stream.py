"""The events of one run as this server told them: both sides', one JSON line each; the id is the line's number.

Written before anyone sees it and never changed, so a reader may go away and come back at any id, across restarts
of the server. Readers hold a place in the file, never events.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from provision_agent.contract.events import JsonObject, read_event
from provision_agent.contract.parsing import ParseError

from ...storage import open_private, private_folder

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
        private_folder(path.parent)
        self._descriptor = open_private(path, os.O_RDWR | os.O_APPEND)
        self._length = 0
        for chunk in _chunks(self._descriptor):
            self.last_id += chunk.count(b"\n")
            self._length += len(chunk)
        os.ftruncate(self._descriptor, self._length)

    def append(self, event: JsonObject) -> int:
        """Write *event* and wake the readers; returns its id. Raises OSError and leaves no half line."""
        self.write((event,))
        self.wake()
        return self.last_id

    def write(self, events: Sequence[JsonObject]) -> None:
        """Write *events* in one piece. It may block: on the event loop call it in a thread, then `wake` the readers.

        Raises:
            OSError: this disk does not take them; none of them was written.
        """
        data = b"".join(map(_line, events))
        try:
            written = os.write(self._descriptor, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._descriptor, self._length)
            raise
        self._length += len(data)
        self.last_id += len(events)

    def wake(self) -> None:
        """Tell every reader that something was written."""
        for listener in self.listeners:
            listener.set()

    def end(self) -> None:
        """Nothing will follow. Safe to repeat."""
        self.is_over = True
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.wake()


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


def read_events(path: Path) -> Iterator[JsonObject]:
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


def _line(event: JsonObject) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def _event(line: bytes) -> JsonObject:
    try:
        return read_event(line) or {}
    except ParseError:
        return {}


def last_id_of(path: Path) -> int:
    """How many events a stream has; 0 when there is no such stream."""
    try:
        reader = StreamReader(path, after=_NO_END)
    except FileNotFoundError:
        return 0
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
