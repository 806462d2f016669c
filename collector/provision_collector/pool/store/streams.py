"""The events that were told of each run, their fold up to some event, and the bytes of logs that are shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from .database import Database, Work
from .rows import Row
from .schema import chunks, events, mirrors, snapshots
from .writer import EventRow, Writer, put

PAGE = 500
"""So many events are read at once."""
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Place:
    """How far somebody has read a run's events."""

    day: int
    rid: int
    after: int


@dataclass(frozen=True)
class Snapshot:
    """The fold of a run's events up to `last_id`."""

    last_id: int
    view: str
    watched: str | None


@dataclass(frozen=True)
class MirrorPlace:
    """How far the mirror of *file* is: so many bytes, the last of them in `tail`."""

    file: str
    length: int
    position: str
    tail: bytes = b""


class Streams:
    """What is read of the streams; all of it is written by the server's one writer."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def append(self, rows: Sequence[EventRow], work: Work[None] | None = None) -> None:
        """Write events of one run, and the change that follows from them, in one transaction."""
        await self._writer.write(events=rows, work=work, rid=rows[0].rid)

    async def after(self, place: Place, limit: int = PAGE) -> list[tuple[int, bytes]]:
        """The next events as ``(id, JSON)``; empty when there is none yet."""
        return await self._database.ask(lambda line: _told(line, place, limit))

    async def all_of(self, row: Row) -> list[tuple[int, bytes]]:
        """Every event of a run."""
        return await self._database.ask(lambda line: _told(line, Place(row.day, row.rid, 0)))

    async def last_id(self, row: Row) -> int:
        """How many events there are of a run."""
        query = sa.select(sa.func.max(events.c.id)).where(events.c.day == row.day, events.c.rid == row.rid)
        return await self._database.ask(lambda line: int(line.execute(query).scalar() or 0))

    async def news(self, places: Sequence[Place], limit: int = PAGE) -> list[EventRow]:
        """What is new at any of *places*, in one question."""
        if not places:
            return []
        at = [
            sa.and_(events.c.day == place.day, events.c.rid == place.rid, events.c.id > place.after)
            for place in places
        ]
        query = sa.select(events).where(sa.or_(*at)).order_by(events.c.rid, events.c.id).limit(limit)
        return await self._database.ask(lambda line: [EventRow(*found) for found in line.execute(query)])

    async def snapshot(self, row: Row) -> tuple[Snapshot | None, list[tuple[int, bytes]]]:
        """The last fold of a run's events that was kept, and the events since then."""

        def read(connection: Connection) -> tuple[Snapshot | None, list[tuple[int, bytes]]]:
            query = sa.select(snapshots.c.last_id, snapshots.c.view, snapshots.c.watched)
            found = connection.execute(query.where(snapshots.c.rid == row.rid)).first()
            kept = Snapshot(*found) if found is not None else None
            after = kept.last_id if kept is not None else 0
            return kept, _told(connection, Place(row.day, row.rid, after))

        return await self._database.ask(read)

    # -- logs

    async def log_size(self, row: Row, file: str) -> int:
        """How many bytes of a log are here."""
        query = sa.select(mirrors.c.length).where(mirrors.c.rid == row.rid, mirrors.c.file == file)
        return await self._database.ask(lambda line: int(line.execute(query).scalar() or 0))

    async def log_bytes(self, row: Row, file: str, offset: int, size: int) -> bytes:
        """Bytes of a log from *offset* on, at most *size*; fewer where a piece of it ends."""
        here = sa.and_(chunks.c.day == row.day, chunks.c.rid == row.rid, chunks.c.file == file)
        query = sa.select(chunks.c.start, chunks.c.data).where(here, chunks.c.start <= offset)
        query = query.order_by(chunks.c.start.desc()).limit(1)

        def read(connection: Connection) -> bytes:
            found = connection.execute(query).first()
            if found is None:
                return b""
            start, data = found
            return bytes(data[offset - start : offset - start + size])

        return await self._database.ask(read)

    async def mirror_places(self, row: Row, tail_bytes: int) -> dict[str, MirrorPlace]:
        """How far each mirror of a run is, with the last *tail_bytes* of it."""

        def read(connection: Connection) -> dict[str, MirrorPlace]:
            query = sa.select(mirrors.c.file, mirrors.c.length, mirrors.c.position, mirrors.c.tail)
            found: dict[str, MirrorPlace] = {}
            for file, length, position, tail in connection.execute(query.where(mirrors.c.rid == row.rid)):
                kept = bytes(tail) if tail is not None else _tail(connection, row, file, length - tail_bytes)
                found[file] = MirrorPlace(file, length, position, kept[-tail_bytes:])
            return found

        return await self._database.ask(read)


def _told(connection: Connection, place: Place, limit: int | None = None) -> list[tuple[int, bytes]]:
    """The next events at *place*, as ``(id, JSON)``; without a *limit* all of them."""
    query = sa.select(events.c.id, events.c.body).where(
        events.c.day == place.day, events.c.rid == place.rid, events.c.id > place.after
    )
    return [
        (number, bytes(body)) for number, body in connection.execute(query.order_by(events.c.id).limit(limit))
    ]


def put_snapshot(connection: Connection, rid: int, kept: Snapshot) -> None:
    """Keep a fold in place of the one before."""
    put(
        connection,
        "snapshots",
        {"rid": rid, "last_id": kept.last_id, "view": kept.view, "watched": kept.watched},
    )


def put_mirror(connection: Connection, row: Row, place: MirrorPlace, new: Mapping[int, bytes]) -> None:
    """Keep how far a mirror is.

    Args:
        row: The run.
        place: Where the mirror ends; a `tail` only for one whose bytes are not kept.
        new: Its bytes that are to be kept, by where they begin.
    """
    for start, data in new.items():
        put(
            connection,
            "chunks",
            {"day": row.day, "rid": row.rid, "file": place.file, "start": start, "data": data},
        )
    values = {"length": place.length, "position": place.position, "tail": place.tail or None}
    put(connection, "mirrors", {"rid": row.rid, "file": place.file, **values})


def _tail(connection: Connection, row: Row, file: str, begin: int) -> bytes:
    here = sa.and_(chunks.c.day == row.day, chunks.c.rid == row.rid, chunks.c.file == file)
    last = (
        sa.select(sa.func.max(chunks.c.start)).where(here, chunks.c.start <= max(begin, 0)).scalar_subquery()
    )
    query = sa.select(chunks.c.data).where(here, chunks.c.start >= sa.func.coalesce(last, 0))
    return b"".join(bytes(data) for data in connection.execute(query.order_by(chunks.c.start)).scalars())
