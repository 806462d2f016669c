"""Old runs go: one by one, or, where the tables are divided by the day on which a run began, a day at a time.

PostgreSQL divides `events` and `chunks`; dropping a day costs the same however much was told on it. What has no part of its
own (a day of an earlier release, one for which no part could be made in time) lies in the rest, and goes row by row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from .database import Database, why
from .rows import DAY_S
from .schema import chunks, commands, deliveries, events, mirrors, run_labels, runs, snapshots

AHEAD_DAYS = 3
"""Parts are made for so many days to come, so that a server that cannot make one now has time to try again."""
LATE_DAYS = 1
"""For so long a day as a whole waits for its last run; then the others of that day go without it."""
AT_ONCE = 500
"""So many old runs are let go in one transaction."""
PATIENCE = "500ms"
"""So long a change of the parts waits for whoever reads or writes just then, and everybody else for it."""
PARTS_LOCK = 0x70726F77
LATER = frozenset(("55P03", "40P01", "23514", "42501"))
"""What PostgreSQL says when somebody holds the tables, has written a row of that day just now, or this user may not."""

_OF_A_RUN = (run_labels, snapshots, mirrors, commands)
_OF_A_DAY = (events, chunks)
T = TypeVar("T")
log = structlog.get_logger()


def part_of(table: str, day: int) -> str:
    """The name of the part of *table* for *day*."""
    return f"{table}_day_{day}"


def today() -> int:
    """The day that it is now, counted from 1970."""
    return int(time.time() // DAY_S)


async def make_parts(database: Database, first: int | None = None) -> None:
    """Make the parts for *first* (None: today) and the days after it, where they are missing.

    Where this cannot be done now it is logged; what is told on such a day is kept in the rest.

    Raises:
        sqlalchemy.exc.DBAPIError: the database does not answer.
    """
    if database.is_shared:
        begin = today() if first is None else first
        await _change_parts(database, lambda line: _make(line, range(begin, begin + AHEAD_DAYS)))


async def drop_days(database: Database, before_unix: float) -> list[str]:
    """Let the runs of whole days go; returns their ids. Only where the tables are divided.

    A day goes when every run that began on it ended before *before_unix*.

    Raises:
        sqlalchemy.exc.DBAPIError: the database does not answer.
    """
    gone: list[str] = []
    while more := await _change_parts(database, lambda line: _drop_one(line, before_unix)):
        gone += more
    return gone


def forget(connection: Connection, *, keep: int, before_unix: float | None) -> list[str]:
    """Remove some of the finished runs that are too many or too old, row by row; returns their ids, empty when all went.

    Args:
        keep: So many of the newest stay.
        before_unix: Those that ended earlier go, too; where the tables are divided, only those of days that a run holds up.
    """
    newest = sa.select(runs.c.rid).where(runs.c.verdict.is_not(None))
    newest = newest.order_by(runs.c.created_unix.desc(), runs.c.rid.desc())
    old = connection.execute(newest.offset(keep).limit(AT_ONCE)).scalars().all()
    if before_unix is not None:
        too_old = sa.and_(runs.c.verdict.is_not(None), runs.c.ended_unix < before_unix)
        if connection.dialect.name == "postgresql":
            too_old = sa.and_(too_old, runs.c.day < before_unix // DAY_S - LATE_DAYS)
        query = sa.select(runs.c.rid).where(too_old).limit(AT_ONCE)
        old = [*old, *connection.execute(query).scalars().all()]
    return _remove(connection, old) if old else []


def _remove(connection: Connection, old: Sequence[int]) -> list[str]:
    going = connection.execute(sa.select(runs.c.run, runs.c.day).where(runs.c.rid.in_(old))).all()
    days = {day for _, day in going}
    for table in _OF_A_DAY:
        connection.execute(sa.delete(table).where(table.c.day.in_(days), table.c.rid.in_(old)))
    return _remove_beside(connection, runs.c.rid.in_(old))


def _remove_beside(connection: Connection, which: sa.ColumnElement[bool]) -> list[str]:
    """Remove everything of some runs but what is kept by day; returns their ids."""
    rids = sa.select(runs.c.rid).where(which)
    for table in _OF_A_RUN:
        connection.execute(sa.delete(table).where(table.c.rid.in_(rids)))
    names = sa.select(runs.c.run).where(which)
    settled = sa.and_(deliveries.c.run.in_(names), deliveries.c.is_settled)
    connection.execute(sa.delete(deliveries).where(settled))
    return list(connection.execute(sa.delete(runs).where(which).returning(runs.c.run)).scalars())


# -- the parts of PostgreSQL's tables


async def _change_parts(database: Database, work: Callable[[Connection], T]) -> T | None:
    """*work* by one server at a time, when nobody holds the tables for long; None when it could not be done now."""

    def alone(connection: Connection) -> T | None:
        if not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(PARTS_LOCK))).scalar():
            return None
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{PATIENCE}'"))
        return work(connection)

    try:
        return await database.change(alone)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in LATER:
            raise
        log.info("parts_not_changed", why=why(error))
        return None


def _parts(connection: Connection, table: str) -> set[str]:
    query = sa.text(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = to_regclass(:name)"
    )
    return {str(name) for name in connection.execute(query, {"name": table}).scalars()}


def _make(connection: Connection, days: range) -> None:
    for table in _OF_A_DAY:
        there = _parts(connection, table.name)
        for day in days:
            if part_of(table.name, day) in there or _is_in_rest(connection, table.name, day):
                continue
            connection.exec_driver_sql(
                f"CREATE TABLE {part_of(table.name, day)} PARTITION OF {table.name} FOR VALUES FROM ({day}) TO ({day + 1})"
            )


def _is_in_rest(connection: Connection, table: str, day: int) -> bool:
    query = sa.text(f"SELECT 1 FROM {table}_rest WHERE day = :day LIMIT 1")  # noqa: S608
    return connection.execute(query, {"day": day}).first() is not None


def _drop_one(connection: Connection, before_unix: float) -> list[str]:
    stays = sa.or_(runs.c.verdict.is_(None), runs.c.ended_unix.is_(None), runs.c.ended_unix >= before_unix)
    gone = sa.select(runs.c.day).where(runs.c.day < today())
    gone = gone.group_by(runs.c.day).having(~sa.func.bool_or(stays)).order_by(runs.c.day)
    parts = {table.name: _parts(connection, table.name) for table in _OF_A_DAY}

    def whole_days() -> list[int]:
        found = connection.execute(gone).scalars()
        return [day for day in found if any(part_of(name, day) in there for name, there in parts.items())]

    if not whole_days():
        return []
    connection.execute(sa.text("LOCK TABLE events, chunks IN ACCESS EXCLUSIVE MODE"))
    days = whole_days()[:1]  # somebody may have brought an old run in meanwhile; one, so that it is soon done
    for table in _OF_A_DAY:
        for day in days:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {part_of(table.name, day)}")
        rest = sa.text(f"DELETE FROM {table.name}_rest WHERE day = ANY(:days)")  # noqa: S608
        connection.execute(rest, {"days": days})
    return _remove_beside(connection, runs.c.day.in_(days))
