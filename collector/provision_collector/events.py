"""Events on this machine: reading the agent's from their mirror, writing this side's own.

Both are JSON Lines; a line counts when its newline is there.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiofiles
from provision_agent import protocol

from .errors import UsageError

CHUNK_BYTES = 1 << 20
LIVE_BYTES = 1 << 16
"""A reader that is so close to the end reads what was written a moment ago."""


class EventTail:
    """Reads the events of a growing file, each once. The file may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read_new(self) -> list[dict[str, Any]]:
        """The events that were completed since the last call, at most one chunk of them; empty when there are none."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                chunk = file.read(CHUNK_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return self._cut(chunk)

    async def read_later(self) -> list[dict[str, Any]]:
        """As `read_new`, for readers on the event loop: who lags behind waits for the disk elsewhere, and nobody else does."""
        try:
            behind_bytes = os.stat(self._path).st_size - self._offset
        except (FileNotFoundError, NotADirectoryError):
            return []
        if behind_bytes > LIVE_BYTES:
            async with aiofiles.open(self._path, "rb") as file:
                await file.seek(self._offset)
                return self._cut(await file.read(CHUNK_BYTES))
        return self.read_new() if behind_bytes else []  # just written: it is still in memory

    def _cut(self, chunk: bytes) -> list[dict[str, Any]]:
        whole = chunk[: chunk.rfind(b"\n") + 1]
        if not whole and len(chunk) == CHUNK_BYTES:
            whole = chunk  # a line without end is no event
        self._offset += len(whole)
        return [event for line in whole.split(b"\n") if (event := _event(line)) is not None]


class LocalEvents:
    """This side's events of one run: kept in memory until `bind` says in which file they belong, then written."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.all: list[dict[str, Any]] = []
        self._path: Path | None = None
        self._sequence = 0

    def bind(self, path: Path) -> None:
        """Write to *path* from now on, what is there so far first; goes on with the sequence of the file."""
        if self._path is not None:
            return
        first = _last_sequence(path) + 1
        self._path = path
        for number, event in enumerate(self.all, first):
            event.update(seq=number, run=self.run)
            self._write(event)
        self._sequence = first + len(self.all) - 1

    def emit(self, event: str, **fields: Any) -> dict[str, Any]:
        """Record one event; returns it as written."""
        self._sequence += 1
        record: dict[str, Any] = {
            "format": protocol.FORMAT,
            "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "run": self.run,
            "seq": self._sequence,
            "event": event,
            "from": "collector",
            **fields,
        }
        self.all.append(record)
        if self._path is not None:
            self._write(record)
        return record

    def _write(self, record: dict[str, Any]) -> None:
        assert self._path is not None
        data = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # this disk is full or gone: the mirrors say so, and the listeners have the event
        try:
            os.write(descriptor, data)
        except OSError:
            pass
        finally:
            os.close(descriptor)


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None  # torn by a killed agent, which ended it with a newline and went on
    if not isinstance(event, dict):
        return None
    if event.get("format") not in protocol.SUPPORTED_FORMATS:
        raise UsageError(
            f"this run writes events of format {event.get('format')}; this version of provision reads "
            f"{protocol.SUPPORTED_FORMATS[0]} and {protocol.FORMAT}",
            hint="watch it with the version of provision that started it",
        )
    return event


def _last_sequence(path: Path) -> int:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            return protocol.last_sequence(file.read()) or 0
    except FileNotFoundError:
        return 0
