"""Events on this machine: reading the agent's from their mirror, writing this side's own.

Both are JSON Lines; a line counts when its newline is there. What the instance wrote passes one door, `EventTail`:
an event that does not fit ends the reading, and nothing passes as this side's own.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiofiles
import structlog
from provision_agent.contract.events import (
    COLLECTOR_NAMES,
    MAX_EVENT_BYTES,
    Event,
    UnknownFormatError,
    last_sequence,
    parse_event,
    read_event,
)
from provision_agent.contract.parsing import ParseError
from provision_agent.contract.version import FORMAT

from ..errors import AgentLostError, ProvisionError, UsageError

CHUNK_BYTES = 1 << 20
LIVE_BYTES = 1 << 16
"""A reader that is so close to the end reads what was written a moment ago."""

log = structlog.get_logger()


class EventTail:
    """Reads the events of a growing file, each once. The file may not be there yet.

    Events that only this side tells are passed over, and who an event says it is `from` is not believed. The events
    before one that cannot be read are given first; then every call raises.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._error: ProvisionError | None = None
        self._is_forger = False

    def read_new(self) -> list[Event]:
        """The events that were completed since the last call, at most one chunk of them; empty when there are none.

        Raises:
            AgentLostError: the instance wrote what is no event. UsageError: events of a format that is not known.
        """
        if self._error is not None:
            raise self._error
        while True:
            try:
                with self._path.open("rb") as file:
                    file.seek(self._offset)
                    chunk = file.read(CHUNK_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                return []
            if (events := self._cut(chunk)) is not None:
                return events

    async def read_later(self) -> list[Event]:
        """As `read_new`, for readers on the event loop: who lags behind waits for the disk elsewhere, and nobody else does."""
        try:
            behind_bytes = os.stat(self._path).st_size - self._offset
        except (FileNotFoundError, NotADirectoryError):
            return []
        while behind_bytes > LIVE_BYTES and self._error is None:
            async with aiofiles.open(self._path, "rb") as file:
                await file.seek(self._offset)
                if (events := self._cut(await file.read(CHUNK_BYTES))) is not None:
                    return events
        is_idle = not behind_bytes and self._error is None
        return [] if is_idle else self.read_new()  # just written: it is still in memory

    def _cut(self, chunk: bytes) -> list[Event] | None:
        """The events in *chunk*; None when it has whole lines and none of them counts."""
        whole = chunk[: chunk.rfind(b"\n") + 1]
        events: list[Event] = []
        lines = chunk.split(b"\n")
        if len(lines[-1]) <= MAX_EVENT_BYTES:
            lines.pop()  # more of it may come
        for line in lines:
            try:
                event = self._event(line)
            except UnknownFormatError as error:
                self._error = UsageError(
                    f"this run writes events of {error}",
                    hint="watch it with the version of provision that started it",
                )
            except ParseError as error:
                self._error = self._misfit(error)
            if self._error is not None:
                if events:
                    return events
                raise self._error
            self._offset += len(line) + 1
            if event is not None:
                events.append(event)
        return events if events or not whole else None

    def _event(self, line: bytes) -> Event | None:
        found = read_event(line)
        if found is None:
            return None  # torn by a killed agent, which ended it with a newline and went on
        origin = found.pop("from", None)
        event = parse_event(found)
        is_ours = event.name in COLLECTOR_NAMES
        if (is_ours or origin is not None) and not self._is_forger:
            self._is_forger = True
            log.warning("event_not_ours", path=str(self._path), at=self._offset)
        return None if is_ours else event

    def _misfit(self, misfit: ParseError) -> AgentLostError:
        return AgentLostError(
            f"the instance wrote an event that no agent writes: {misfit} (byte {self._offset} of `{self._path}`)",
            hint="do not trust this instance: end the run with `provision stop`, or replace the instance",
            cause="protocol",
        )


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
            "format": FORMAT,
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


def _last_sequence(path: Path) -> int:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            return last_sequence(file.read()) or 0
    except FileNotFoundError:
        return 0
