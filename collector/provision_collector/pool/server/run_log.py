"""What was told of one run, by this server and those before it: its stream, and the view that follows from it.

An event counts when it stands in the stream; clients and the view see it then and not before. Events are written off
the event loop, those that come together in one piece; a full disk is waited for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

import structlog
from provision_agent.contract.events import EVENTS, JsonObject
from provision_agent.contract.version import FORMAT

from .disk import DiskThread
from .stream import StreamWriter, read_events
from .view import view_of

RETRY_S = 2.0
MOST_WAITING = 500
"""So many events may wait for the disk before whoever brings more waits, too."""

log = structlog.get_logger()


class RunLog:
    """The log of *run* in the file at *path*, new or taken up. Making one reads all of it: do that in a thread.

    Args:
        labels: Those of the order; every event carries them, whatever labels it brings.
        told: Counts the events by name; names that are not of `EVENTS` count as `other`.
        disk: Writes the stream.
    """

    def __init__(
        self, run: str, path: Path, *, labels: Mapping[str, str], told: Counter[str], disk: DiskThread
    ) -> None:
        self.run = run
        self._labels = {"labels": dict(labels)} if labels else {}
        self.stream = StreamWriter(path)
        self.view = view_of(run, read_events(path))
        self._told = told
        self._disk = disk
        self._waiting: list[JsonObject] = []
        self._writing: asyncio.Task[None] | None = None
        self._is_ending = False

    @property
    def is_begun(self) -> bool:
        """Whether anything was told yet."""
        return self.stream.last_id > 0

    def knows(self, event: JsonObject) -> bool:
        """Whether *event*, which its run tells again from the beginning, was told already."""
        if event.get("from") == "collector":
            return event["event"] == "run_accepted"  # the first word is the server's own
        seq = event["seq"]
        return isinstance(seq, int) and seq <= self.view.agent_seq

    async def say(self, event: str, /, **facts: object) -> None:
        """Tell an event of this server's own; it is written when this returns."""
        ts = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"format": FORMAT, "ts": ts, "run": self.run, "seq": 0, "event": event}
        await self.tell({**facts, **head, "from": "collector"})
        await self.flush()

    async def tell(self, event: JsonObject) -> None:
        """Tell an event of the run. It is written soon; `flush` waits for that."""
        self._waiting.append(event)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name=f"log {self.run}")
        if len(self._waiting) >= MOST_WAITING:
            await self.flush()

    async def flush(self) -> None:
        """Wait until everything that was told is written."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def end(self) -> None:
        """Nothing more is told by this process. Safe to repeat."""
        self._is_ending = True
        await self.flush()
        self.stream.end()

    async def _write(self) -> None:
        try:
            while self._waiting:
                events = self._numbered(self._waiting)
                try:
                    await self._disk.run(partial(self.stream.write, events))
                except OSError as error:  # nobody has seen these events, so they can wait
                    log.warning("stream_not_written", run=self.run, why=error.strerror)
                    if self._is_ending:
                        return
                    await asyncio.sleep(RETRY_S)
                    continue
                del self._waiting[: len(events)]
                for event in events:
                    name = str(event["event"])
                    self._told[name if name in EVENTS else "other"] += 1
                    self.view.tell(event)
                self.stream.wake()
        finally:
            self._writing = None

    def _numbered(self, events: list[JsonObject]) -> list[JsonObject]:
        """*events* as they are written; this side's have one sequence over all servers that told this run."""
        seq = self.view.collector_seq
        found: list[JsonObject] = []
        for event in islice(events, MOST_WAITING):
            own = {}
            if event.get("from") == "collector":
                own["seq"] = seq = seq + 1
            found.append({**event, **own, **self._labels})
        return found
