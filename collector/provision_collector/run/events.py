"""Events on this machine: reading the agent's from their mirror, writing this side's own.

Both are JSON Lines; a line counts when its newline is there. What the instance wrote passes one door, `EventTail`:
an event that does not fit ends the reading, and nothing passes as this side's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog
from provision_agent.contract.events import (
    COLLECTOR_NAMES,
    MAX_EVENT_BYTES,
    Event,
    JsonObject,
    UnknownFormatError,
    last_sequence,
    parse_event,
    read_event,
)
from provision_agent.contract.parsing import ParseError
from provision_agent.contract.version import FORMAT

from ..errors import AgentLostError, ProvisionError, UsageError
from ..storage import append

CHUNK_BYTES = 1 << 16
"""So much is read at once, so that nobody waits long for the one thread that reads."""
MAX_TORN_LINES = 1000
"""A killed agent leaves one behind."""
LIVE_BYTES = 1 << 14
"""A reader that is so close to the end reads what was written a moment ago."""

_HEAD = re.compile(rb'\{"format": ?\d{1,9}, ?"ts": ?"[^"\\]*", ?"run": ?"[^"\\]*", ?"seq": ?(\d{1,18}),')
"""How an agent begins each event: its `seq` can be told without reading the rest."""
_READER = ThreadPoolExecutor(1, thread_name_prefix="events")
"""Of all runs: several threads that parse would take the interpreter from the event loop in turns."""

log = structlog.get_logger()


class EventTail:
    """Reads the events of a growing file, each once. The file may not be there yet.

    Events that only this side tells are passed over, and who an event says it is `from` is not believed. The events
    before one that cannot be read are given first; then every call raises.

    Args:
        path: The file. offset: Where the first line begins that is read.
        names: Of other events nothing is read; None: all are.
        passed_seq: Events up to this `seq` were read and told before: they are passed over.
    """

    def __init__(
        self,
        path: Path,
        *,
        offset: int = 0,
        names: Collection[str] | None = None,
        passed_seq: int = 0,
    ) -> None:
        self._marks = None if names is None else tuple(f'"{name}"'.encode() for name in names)
        self._path = path
        self._offset = offset
        self._passed_seq = passed_seq
        self._error: ProvisionError | None = None
        self._is_forger = False
        self._torn_lines = 0
        self._rest = b""
        """What `feed` was given of a line that is not whole yet."""

    @property
    def offset(self) -> int:
        """The byte after the last event that was given."""
        return self._offset

    def skip_to(self, offset: int) -> None:
        """Somebody else has read the events up to the byte *offset*."""
        self._offset, self._rest = offset, b""

    def feed(self, at: int, data: bytes) -> list[Event] | None:
        """The events that *data*, which was written to the file at byte *at* just now, makes whole.

        Returns:
            None where they have to be read from the file: something before them was not read, or it is too much at once.

        Raises:
            AgentLostError, UsageError: as `read_new`.
        """
        begin, chunk = self._offset, self._rest + data
        if self._error is not None or at != begin + len(self._rest) or len(chunk) > LIVE_BYTES:
            return None
        events = self._cut(chunk)
        self._rest = chunk[self._offset - begin :]
        return events or []

    def read_new(self) -> list[Event]:
        """The events that were completed since the last call, at most one chunk of them; empty when there are none.

        Raises:
            AgentLostError: the instance wrote what is no event. UsageError: events of a format that is not known.
        """
        self._rest = b""
        if self._error is not None:
            raise self._error
        while True:
            try:
                chunk = self._chunk()
            except (FileNotFoundError, NotADirectoryError):
                return []
            if (events := self._cut(chunk)) is not None:
                return events

    def _chunk(self) -> bytes:
        """What comes next: a line at least, where there is a whole one."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            chunk = file.read(CHUNK_BYTES)
            return chunk if b"\n" in chunk else chunk + file.read(MAX_EVENT_BYTES)

    async def read_later(self) -> list[Event]:
        """As `read_new`, for readers on the event loop: who lags behind reads in a thread, and holds up nobody."""
        try:
            behind_bytes = os.stat(self._path).st_size - self._offset
        except (FileNotFoundError, NotADirectoryError):
            return []
        if behind_bytes > LIVE_BYTES:
            return await asyncio.get_running_loop().run_in_executor(_READER, self.read_new)
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
                where = f"byte {self._offset} of `{self._path}`"
                self._error = not_of_an_agent(f"{error} ({where})")
            if self._error is not None:
                if events:
                    return events
                raise self._error
            self._offset += len(line) + 1
            if event is not None:
                events.append(event)
        return events if events or not whole else None

    def _event(self, line: bytes) -> Event | None:
        if self._marks is not None and not any(mark in line for mark in self._marks):
            return None
        if self._passed_seq and (head := _HEAD.match(line)):
            if int(head[1]) <= self._passed_seq:
                return None
            self._passed_seq = 0
        found = read_event(line)
        if found is None:  # torn by a killed agent, which ended it with a newline and went on
            self._torn_lines += 1
            if self._torn_lines > MAX_TORN_LINES:
                raise ParseError(f"more than {MAX_TORN_LINES} lines that are no JSON")
            return None
        origin = found.pop("from", None)
        event = parse_event(found)
        is_ours = event.name in COLLECTOR_NAMES
        if (is_ours or origin is not None) and not self._is_forger:
            self._is_forger = True
            log.warning("event_not_ours", path=str(self._path), at=self._offset)
        return None if is_ours else _in_own_words(event)


def events_of(path: Path, names: Collection[str] | None = None) -> Iterator[Event]:
    """The events of the file at *path* that are there now, as `EventTail.read_new` gives them. Raises as that does.

    Args:
        path: The file.
        names: Those that are wanted: a line without such a name is not even parsed. None: all are.
    """
    tail = EventTail(path, names=names)
    while events := tail.read_new():
        yield from events


def _in_own_words(event: Event) -> Event:
    """*event* with the advice that this side gives, in place of the instance's words."""
    if "hint" not in event.data:
        return event
    return replace(event, data={**event.data, "hint": getattr(event.body, "hint", None)})


def not_of_an_agent(misfit: object) -> AgentLostError:
    """What ends the watching of a run whose events no agent writes."""
    return AgentLostError(
        f"the instance wrote an event that no agent writes: {misfit}",
        hint="do not trust this instance: end the run with `provision stop`, or replace the instance",
        cause="protocol",
    )


def last_of(path: Path, names: Collection[str]) -> JsonObject | None:
    """The last event of this side, in the file *path*, that has one of *names*; None where the end of it has none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - MAX_EVENT_BYTES, 0))
            lines = file.read(MAX_EVENT_BYTES).split(b"\n")
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ParseError):
            found = read_event(line)
            if found is not None and found.get("event") in names:
                return found
    return None


class LocalEvents:
    """This side's events of one run: kept in memory until `bind` says in which file they belong, then written."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.all: list[dict[str, object]] = []
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

    def emit(self, event: str, **fields: object) -> dict[str, object]:
        """Record one event; returns it as written."""
        self._sequence += 1
        record: dict[str, object] = {
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

    def _write(self, record: dict[str, object]) -> None:
        assert self._path is not None
        data = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with suppress(
            OSError
        ):  # this disk is full or gone: the mirrors say so, and the listeners have the event
            append(self._path, data)


def _last_sequence(path: Path) -> int:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            return last_sequence(file.read()) or 0
    except FileNotFoundError:
        return 0
