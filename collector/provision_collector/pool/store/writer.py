"""One connection that writes for all runs of a server: what comes together is one transaction, behind the fence.

A transaction that did not come to its end, or of which nobody knows, is carried out again with the same rows; what
stands there already stays. A server that was declared dead meanwhile is told so, and nothing of it is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar, cast

import sqlalchemy as sa
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ...errors import ProvisionError
from .database import Database, Work, is_passing, why
from .schema import metadata, workers

GATHER_S = 0.01
RETRY_S = 2.0
SHARED_RETRY_S = 0.5
T = TypeVar("T")
log = structlog.get_logger()


class FencedError(ProvisionError):
    """This server was declared dead: its runs are others' now."""

    def __init__(self) -> None:
        super().__init__("this server was taken for dead, and its runs belong to others now")


class EventRow(NamedTuple):
    """An event as it is kept: the day its run began, the run's number, its id, and its JSON."""

    day: int
    rid: int
    id: int
    body: bytes


@dataclass
class _Change:
    events: Sequence[EventRow]
    work: Work[object] | None
    rid: int | None
    worker: str | None
    """Who wants it: this process under the id that it had then."""
    done: asyncio.Future[object] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Writer:
    """Writes for one server process. Belongs to one event loop.

    Args:
        announce: Called within each transaction with the numbers of the runs that it changes.
    """

    def __init__(self, database: Database, announce: Callable[[Connection, set[int]], None]) -> None:
        self._database = database
        self._announce = announce
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._waiting: list[_Change] = []
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.worker: str | None = None
        """The id under which this process may write; None: it needs none."""
        self.is_closing = False
        self.trouble: str | None = None
        """Why nothing can be written now."""

    async def write(
        self,
        *,
        events: Sequence[EventRow] = (),
        work: Work[T] | None = None,
        rid: int | None = None,
        at_once: bool = False,
    ) -> T | None:
        """Write, and wait until it is durable; a full disk and a lost connection are waited for.

        Args:
            events: New ones, of one run.
            work: What else is changed in the same transaction. It may be carried out several times.
            rid: The run that is told of to whoever follows it.
            at_once: Do not wait for more that could be written with it.

        Returns:
            What *work* gave.

        Raises:
            FencedError: this server was declared dead. Whatever else *work* raises.
        """
        change = _Change(events, work, rid, self.worker)
        self._waiting.append(change)
        if at_once:
            self._hurry.set()
        if self._task is None:
            self._task = asyncio.create_task(self._write_all(), name="writer")
        return cast("T | None", await asyncio.shield(change.done))

    async def close(self) -> None:
        """Give up what cannot be written, and end."""
        self.is_closing = True
        self._hurry.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                self._hurry.clear()
                await self._write(batch)
                with suppress(TimeoutError):  # let more come together
                    async with asyncio.timeout(GATHER_S):
                        await self._hurry.wait()
        finally:
            self._task = None

    async def _write(self, batch: list[_Change]) -> None:
        while batch := self._still_wanted(batch):
            try:
                results = await self._database.change_in(self._thread, partial(self._all, batch=batch))
            except Exception as error:
                if is_passing(error) and not self.is_closing:
                    self.trouble = why(error)
                    log.warning("store_not_written", why=why(error))
                    await asyncio.sleep(SHARED_RETRY_S if self._database.is_shared else RETRY_S)
                    continue
                self.trouble = None  # it answers: what it refuses is another matter
                if len(batch) > 1 and isinstance(error, SQLAlchemyError) and not is_passing(error):
                    for change in batch:  # one of them is to blame
                        await self._write([change])
                    return
                for change in batch:
                    _fail(change, error)
                return
            self.trouble = None
            for change, result in zip(batch, results, strict=True):
                if not change.done.done():
                    change.done.set_result(result)
            return

    def _still_wanted(self, batch: list[_Change]) -> list[_Change]:
        """Those of *batch* that this process wants under the id that it has now; it came back under another one meanwhile."""
        for change in batch:
            if change.worker != self.worker:
                _fail(change, FencedError())
        return [change for change in batch if change.worker == self.worker]

    def _all(self, connection: Connection, batch: list[_Change]) -> list[object]:
        self._fence(connection, batch[0].worker)
        if rows := [row for change in batch for row in change.events]:
            insert_events(connection, rows)
        results = [change.work(connection) if change.work is not None else None for change in batch]
        if told := {change.rid for change in batch if change.rid is not None}:
            self._announce(connection, told)
        return results

    def fence(self, connection: Connection) -> None:
        """Hold this process's right to write until the transaction ends. Raises FencedError: it has none any more."""
        self._fence(connection, self.worker)

    def _fence(self, connection: Connection, worker: str | None) -> None:
        if worker is None or not self._database.is_shared:
            return
        mine = sa.select(sa.literal(1)).where(workers.c.id == worker, ~workers.c.is_dead)
        if connection.execute(mine.with_for_update(read=True, key_share=True)).first() is None:
            raise FencedError


def _fail(change: _Change, error: Exception) -> None:
    if not change.done.done():
        change.done.set_exception(error)
        change.done.exception()  # whoever waits gets it; nobody may


_INSERT_MANY = sa.text(
    "INSERT INTO events (day, rid, id, body) SELECT * FROM"
    " unnest(CAST(:days AS integer[]), CAST(:rids AS bigint[]), CAST(:ids AS bigint[]), CAST(:bodies AS bytea[]))"
    " ON CONFLICT DO NOTHING"
)


def insert_events(connection: Connection, rows: Sequence[EventRow]) -> None:
    """Add *rows*; one that is there already stays as it is."""
    if connection.dialect.name == "postgresql":
        days, rids, ids, bodies = (list(column) for column in zip(*rows, strict=True))
        connection.execute(_INSERT_MANY, {"days": days, "rids": rids, "ids": ids, "bodies": bodies})
    else:
        connection.exec_driver_sql(
            "INSERT OR IGNORE INTO events (day, rid, id, body) VALUES (?, ?, ?, ?)", list(rows)
        )


def insert_once(connection: Connection, table: str, values: Mapping[str, object]) -> bool:
    """Add a row to *table*; False when there is one with its key."""
    return connection.execute(sa.text(f"{_insert(table, values)} DO NOTHING"), dict(values)).rowcount == 1


def owe(connection: Connection, key: str, body: str, worker: str | None) -> bool:
    """Add a delivery that *worker* is to make; False when its key is known."""
    values = {"key": key, "run": key.rsplit(":", 2)[0], "body": body, "owner": worker}
    return insert_once(connection, "deliveries", values)


def put(connection: Connection, table: str, values: Mapping[str, object]) -> None:
    """Add a row to *table*, or replace the one with its key."""
    keys = [column.name for column in metadata.tables[table].primary_key]
    sets = ", ".join(f'"{name}" = excluded."{name}"' for name in values if name not in keys)
    names = ", ".join(f'"{name}"' for name in keys)
    connection.execute(sa.text(f"{_insert(table, values)} ({names}) DO UPDATE SET {sets}"), dict(values))


def _insert(table: str, names: Iterable[str]) -> str:
    """The beginning that both databases understand; *names* are those of columns."""
    columns, values = ", ".join(f'"{name}"' for name in names), ", ".join(f":{name}" for name in names)
    return f'INSERT INTO "{table}" ({columns}) VALUES ({values}) ON CONFLICT'  # noqa: S608
