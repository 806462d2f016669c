"""What a server keeps of its runs: every order, how far it came, and which hooks are still owed.

A run that was answered for is here before the answer leaves; no secret is, only the names of those that were given.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from provision_agent.contract.parsing import to_json
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ...errors import LocalMachineError, UsageError
from ...storage import FileLock, LockBusyError
from . import days
from .database import Database, Work, is_passing, why
from .home import name_of
from .instances import WatchedInstances
from .leases import Leases
from .machines import Machines
from .notices import Notices
from .rows import DAY_S, ENDED, Row, Summary
from .schema import commands, deliveries, run_labels, runs
from .streams import Streams
from .writer import Writer, insert_once, owe

_COLUMNS = tuple(f.name for f in fields(Row))
_JSON = frozenset(("instance", "plan", "labels", "secret_names", "summary"))
_ROW = TypeAdapter(Row)
_SUMMARY = TypeAdapter(Summary)


@dataclass(frozen=True)
class Wanted:
    """Which runs are listed, newest first."""

    state: str | None = None
    """`going`, `finished`, or the word for one; None: any."""
    labels: Mapping[str, str] = field(default_factory=dict)
    host: str | None = None
    """The address, with or without its port, or the instance's id."""
    before: tuple[float, int] | None = None
    """Only those after this place of the list: the time and number of the run before it."""
    limit: int = 100


class Store:
    """The database of one server; `open` refuses a folder that another server uses."""

    def __init__(self, database: Database, lock: FileLock, home: str) -> None:
        self.database = database
        self.notices = Notices(database)
        self.writer = Writer(database, self.notices.announce)
        self.streams = Streams(database, self.writer)
        self.machines = Machines(database, self.writer)
        self.instances = WatchedInstances(database, self.writer)
        self.leases = Leases(database, self.writer, self.notices, home=home)
        self._lock = lock

    @property
    def is_shared(self) -> bool:
        """Other servers may work on it."""
        return self.database.is_shared

    @classmethod
    async def open(cls, folder: Path, url: str | None = None) -> Self:
        """Open or make the database.

        Args:
            folder: The server's own state; no two servers have one.
            url: Of a PostgreSQL database; None: an SQLite file in *folder*.

        Raises:
            UsageError: another server has the folder, or the database is not to be used by this one.
            LocalMachineError: this disk does not take it.
        """
        lock = FileLock(folder / "lock", wait_s=0)
        try:
            await lock.acquire_async()
        except LockBusyError:
            raise UsageError(
                f"another `provision serve` uses `{folder}`",
                hint="stop it, or give this one its own `--state-dir`",
            ) from None
        try:
            database = await asyncio.to_thread(_opened, folder, url)
        except BaseException:
            lock.release()
            raise
        store = cls(database, lock, await asyncio.to_thread(name_of, folder))
        await days.make_parts(database)
        return store

    async def close(self) -> None:
        """Close the database and let another server have it."""
        await self.notices.close()
        await self.writer.close()
        await asyncio.to_thread(self.database.close)
        self._lock.release()

    # -- runs

    async def add(self, row: Row, *, sealed: bytes | None = None) -> bool:
        """Record a new run; False when its id is taken.

        Args:
            row: The run; it learns its number.
            sealed: Its secrets, for the server that owns it and for no other.

        Raises:
            LocalMachineError: it cannot be written.
        """

        def insert(connection: Connection) -> int | None:
            self.writer.fence(connection)
            rid = add_row(connection, row)
            if not rid:
                return None
            if sealed is not None:
                connection.execute(sa.insert(commands).values(rid=rid, worker=row.owner, sealed=sealed))
            self.notices.announce_free(connection)
            return rid

        try:
            rid = await self.database.change(insert)
        except SQLAlchemyError as error:
            if not is_passing(error):
                raise
            hint = (
                "ask again when the database answers"
                if self.is_shared
                else "make room for the server's state directory"
            )
            raise LocalMachineError(f"the run cannot be written down: {why(error)}", hint=hint) from None
        row.rid = rid or row.rid
        return rid is not None

    async def update(self, row: Row, **changes: object) -> None:
        """Change *row*, in memory and on the disk."""
        for name, value in changes.items():
            setattr(row, name, value)
        await self.writer.write(
            work=self.change_of(row, **changes), rid=row.rid if "verdict" in changes else None
        )

    def change_of(self, row: Row, **changes: object) -> Work[None]:
        """What `update` does in the database, for a transaction of the caller's."""
        values = {name: _to_sql(name, value) for name, value in changes.items()}
        statement = sa.update(runs).where(runs.c.rid == row.rid).values(values)

        def work(connection: Connection) -> None:
            connection.execute(statement)

        return work

    async def find(self, run: str, *, with_plan: bool = True) -> Row | None:
        """The run with this id; None when there is none.

        Args:
            run: Its id.
            with_plan: Read its plan, too, which may be large; else that is empty.
        """
        found = await self.database.ask(
            lambda line: _select(line, sa.select(*_columns(with_plan=with_plan)).where(runs.c.run == run))
        )
        return found[0] if found else None

    async def name_of(self, rid: int) -> str | None:
        """The id of the run with this number."""
        query = sa.select(runs.c.run).where(runs.c.rid == rid)
        return await self.database.ask(lambda line: line.execute(query).scalar())

    async def of_numbers(self, rids: Sequence[int]) -> list[Row]:
        """The runs with these numbers, with their plans."""
        return await self.database.ask(lambda line: select_rows(line, rids))

    async def ended(self, rids: Sequence[int]) -> list[int]:
        """Those of the runs with these numbers that have their verdict."""
        query = sa.select(runs.c.rid).where(runs.c.rid.in_(rids), runs.c.verdict.is_not(None))
        return await self.database.ask(lambda line: list(line.execute(query).scalars())) if rids else []

    async def listed(self, wanted: Wanted) -> list[Row]:
        """The runs that are wanted, newest first; without their plans, which no list shows."""
        query = sa.select(*_columns(with_plan=False)).where(*_conditions(wanted))
        query = query.order_by(runs.c.created_unix.desc(), runs.c.rid.desc()).limit(wanted.limit)
        return await self.database.ask(lambda line: _select(line, query))

    async def counts(self, wanted: Wanted) -> dict[str, int]:
        """How many runs of each state there are among those that are wanted, on whatever page."""
        everything = Wanted(None, wanted.labels, wanted.host)
        query = (
            sa.select(runs.c.state, sa.func.count()).where(*_conditions(everything)).group_by(runs.c.state)
        )
        return await self.database.ask(lambda line: dict(line.execute(query).all()))

    async def forget(self, *, keep: int, keep_days: float | None = None) -> list[str]:
        """Remove finished runs that are too many or too old; returns the ids of those that went.

        Args:
            keep: So many of the newest stay.
            keep_days: Those that ended longer ago go, too; where servers share the database, with their whole day.
        """
        before = None if keep_days is None else time.time() - keep_days * DAY_S
        await days.make_parts(self.database)
        gone: list[str] = []
        if before is not None and self.is_shared:
            gone += await days.drop_days(self.database, before)
        one_by_one = partial(days.forget, keep=keep, before_unix=before)
        while more := await self.writer.write(work=one_by_one):
            gone += more
        return gone

    # -- hooks that are owed

    async def owe(self, key: str, body: str) -> bool:
        """Record a delivery before its first attempt; False when its key is known."""
        return bool(await self.writer.write(work=lambda line: owe(line, key, body, self.writer.worker)))

    async def settle(self, key: str, *, attempts: int) -> None:
        """The delivery arrived, or was given up."""
        settled = (
            sa.update(deliveries).where(deliveries.c.key == key).values(is_settled=True, attempts=attempts)
        )
        await self.writer.write(work=lambda line: line.execute(settled), at_once=True)

    async def owed(self) -> list[tuple[str, str]]:
        """``(key, body)`` of every delivery that is not settled, and is this server's to make."""
        mine = sa.select(deliveries.c.key, deliveries.c.body).where(~deliveries.c.is_settled)
        mine = mine.where(deliveries.c.owner.is_not_distinct_from(self.writer.worker))
        return await self.database.ask(lambda line: [(key, body) for key, body in line.execute(mine)])


def _opened(folder: Path, url: str | None) -> Database:
    from .imported import take_over_first_version  # it reads what this module's tables came from

    if url is None:
        take_over_first_version(folder)
    return Database.open(url, folder)


def host_of(row: Row) -> str:
    """The address of a run's instance, as lists show it."""
    instance = row.instance
    host = f"[{instance.host}]" if ":" in instance.host else instance.host
    return f"{host}:{instance.port}" if instance.port else host


def add_row(connection: Connection, row: Row) -> int:
    """Add a run that was kept elsewhere; returns its number here, and 0 where its id is known already."""
    values = {name: _to_sql(name, getattr(row, name)) for name in _COLUMNS if name != "rid"}
    if not insert_once(connection, "runs", {**values, "day": row.day, "host": host_of(row)}):
        return 0
    rid = int(connection.execute(sa.select(runs.c.rid).where(runs.c.run == row.run)).scalar_one())
    if row.labels:
        connection.execute(sa.insert(run_labels), _labels_of(rid, row.labels))
    return rid


def _columns(*, with_plan: bool = True) -> list[sa.ColumnElement[str]]:
    plain: sa.ColumnElement[str] = sa.literal("{}").label("plan")
    return [plain if name == "plan" and not with_plan else runs.c[name] for name in _COLUMNS]


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    state = wanted.state
    found: list[sa.ColumnElement[bool]] = []
    if state in ("going", "finished"):
        found.append(runs.c.verdict.is_(None) if state == "going" else runs.c.verdict.is_not(None))
    elif state is not None:
        found.append(runs.c.state == state)
        found.append(runs.c.verdict == state if state in ENDED else runs.c.verdict.is_(None))
    if wanted.host is not None:
        named = sa.or_(runs.c.host == wanted.host, runs.c.host.startswith(f"{wanted.host}:", autoescape=True))
        found.append(sa.or_(named, runs.c.instance.contains(_id_in_json(wanted.host), autoescape=True)))
    for name, value in wanted.labels.items():
        label = sa.and_(run_labels.c.name == json.dumps(name), run_labels.c.value == json.dumps(value))
        found.append(runs.c.rid.in_(sa.select(run_labels.c.rid).where(label)))
    if wanted.before is not None:
        created, rid = wanted.before
        same = sa.and_(runs.c.created_unix == created, runs.c.rid < rid)
        found.append(sa.or_(runs.c.created_unix < created, same))
    return found


def _id_in_json(instance_id: str) -> str:
    return f'"instance_id":{json.dumps(instance_id)}'


def _labels_of(rid: int, labels: Mapping[str, str]) -> list[dict[str, object]]:
    return [
        {"rid": rid, "name": json.dumps(name), "value": json.dumps(value)} for name, value in labels.items()
    ]


def select_rows(connection: Connection, numbers: Sequence[int] | sa.Select[tuple[int]]) -> list[Row]:
    """The runs with *numbers*, with their plans, oldest first."""
    query = sa.select(*_columns()).where(runs.c.rid.in_(numbers)).order_by(runs.c.created_unix)
    return _select(connection, query)


def _select(connection: Connection, query: sa.Executable) -> list[Row]:
    return [_row_of(found) for found in connection.execute(query)]


def _to_sql(name: str, value: object) -> object:
    if name in _JSON:
        return None if value is None else json.dumps(to_json(value), separators=(",", ":"))
    return value.replace("\0", "") if isinstance(value, str) else value


def _row_of(values: Iterable[object]) -> Row:
    found = {
        name: json.loads(str(value)) if name in _JSON and value is not None else value
        for name, value in zip(_COLUMNS, values, strict=True)
    }
    try:
        found["summary"] = None if found["summary"] is None else _SUMMARY.validate_python(found["summary"])
    except ValidationError:  # an earlier release kept what an instance called its numbers
        found["summary"] = None
    return _ROW.validate_python(found)
