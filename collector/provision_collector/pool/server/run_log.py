"""What was told of one run, by this server and those before it: its stream, and the view that follows from it.

An event counts when it stands in the database; clients and the view see it then and not before. Events that come
together are written in one piece; a full disk and a lost database are waited for.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from itertools import islice

import structlog
from provision_agent.contract.events import EVENTS, JsonObject
from provision_agent.contract.version import FORMAT
from sqlalchemy import Connection

from ...run.spec import ReadSoFar
from ..store.database import Work
from ..store.rows import ENDED, Row
from ..store.store import Store
from ..store.streams import put_snapshot
from ..store.writer import EventRow, FencedError
from .feed import Feed
from .kept import snapshot_of
from .view import View, state_after

MOST_WAITING = 500
"""So many events may wait for the disk before whoever brings more waits, too."""
MANY = 20
"""So many are made into JSON beside the event loop."""
KEEP_EVERY_BYTES = 1 << 16
"""The fold is kept whenever so much was told since it was kept last."""

log = structlog.get_logger()


class RunLog:
    """The log of the run in *row*, new or taken up.

    Args:
        view: What was told so far.
        feed: Told of each event.
        told: Counts the events by name; names that are not of `EVENTS` count as `other`.
    """

    def __init__(self, row: Row, store: Store, *, view: View, feed: Feed, told: Counter[str]) -> None:
        self.run = row.run
        self.view = view
        self.feed = feed
        self.so_far: Callable[[], ReadSoFar | None] = _nothing
        """What whoever watches the run has read, for the next server."""
        self.with_fold: Callable[[ReadSoFar | None], Awaitable[Work[None] | None]] = _nothing_more
        """What is kept in one transaction with the fold."""
        self._row = row
        self._store = store
        self._labels = {"labels": dict(row.labels)} if row.labels else {}
        self._told = told
        self._waiting: list[JsonObject] = []
        self._writing: asyncio.Task[None] | None = None
        self._not_kept_bytes = 0
        feed.last_id = max(feed.last_id, view.last_event_id)

    @property
    def is_begun(self) -> bool:
        """Whether anything was told yet."""
        return self.view.last_event_id > 0

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
        """Tell an event of the run. It is written soon; `flush` waits for that.

        Raises:
            FencedError: another server watches the run now.
        """
        self._waiting.append(event)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name=f"log {self.run}")
            self._writing.add_done_callback(_seen)
        if len(self._waiting) >= MOST_WAITING:
            await self.flush()

    async def flush(self) -> None:
        """Wait until everything that was told is written. Raises FencedError: another server watches the run now."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def end(self) -> None:
        """Nothing more is told by this process: what was told is written, and the fold is kept. Safe to repeat."""
        await self.flush()
        if self._not_kept_bytes:
            await (self._keep(None) if self.view.is_over else self._keep_if_even())

    async def _write(self) -> None:
        try:
            while self._waiting:
                events = self._numbered(self._waiting)
                lines = await _lines(events)
                first = self.view.last_event_id + 1
                ids = range(first, first + len(lines))
                state = state_after(self.view.state, events)
                if self.view.broken is not None and state not in ENDED:
                    state = "broken"
                rows = [
                    EventRow(self._row.day, self._row.rid, number, line)
                    for number, line in zip(ids, lines, strict=True)
                ]
                is_new = state != self._row.state
                await self._store.streams.append(
                    rows, self._store.change_of(self._row, state=state) if is_new else None
                )
                self._row.state = state
                del self._waiting[: len(events)]
                for event in events:
                    name = str(event["event"])
                    self._told[name if name in EVENTS else "other"] += 1
                    self.view.tell(event)
                if self.view.word != state:
                    await self._store.update(self._row, state=self.view.word)
                self.feed.tell(list(zip(ids, lines, strict=True)))
                self._not_kept_bytes += sum(map(len, lines))
                if self._not_kept_bytes >= KEEP_EVERY_BYTES and not self._waiting:
                    await self._keep_if_even()
        except FencedError:
            self._waiting.clear()
            raise
        finally:
            self._writing = None

    async def _keep_if_even(self) -> None:
        """Keep the fold, when all that its watcher has folded is told and the other way round."""
        so_far = self.so_far()
        seq = so_far.state.get("seq") if so_far is not None else None
        if isinstance(seq, int) and seq >= self.view.agent_seq:
            await self._keep(so_far)

    async def _keep(self, so_far: ReadSoFar | None) -> None:
        self._not_kept_bytes = 0
        kept = await asyncio.to_thread(snapshot_of, self.view, so_far)
        more = await self.with_fold(so_far)

        def work(connection: Connection) -> None:
            put_snapshot(connection, self._row.rid, kept)
            if more is not None:
                more(connection)

        await self._store.writer.write(work=work)

    def _numbered(self, events: list[JsonObject]) -> list[JsonObject]:
        """*events* as they are written; this side's have one sequence over all servers that told this run."""
        seq = self.view.collector_seq
        found: list[JsonObject] = []
        for event in islice(events, MOST_WAITING):
            own: Mapping[str, object] = {}
            if event.get("from") == "collector":
                seq += 1
                own = {"seq": seq}
            found.append({**event, **own, **self._labels})
        return found


def _nothing() -> ReadSoFar | None:
    return None


async def _nothing_more(_: ReadSoFar | None) -> Work[None] | None:
    return None


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever flushes gets it; nobody may


async def _lines(events: list[JsonObject]) -> list[bytes]:
    if len(events) > MANY:
        return await asyncio.to_thread(lambda: [_line(event) for event in events])
    return [_line(event) for event in events]


def _line(event: JsonObject) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
