"""The instances that are watched after their runs: each by one server process, under its lease; read by all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from .database import Database
from .schema import instances, workers
from .writer import Writer, insert_once, owe, put

GONE = "gone"
GONE_STAYS_S = 86_400.0
"""An instance that is gone is still told of for so long."""
AT_ONCE = 500
"""So many are taken in one transaction."""


@dataclass(frozen=True)
class WatchedRow:
    """One instance that is watched, as it is kept."""

    instance: str
    run: str
    """The run that made it what it is."""
    kept: str
    """What whoever watches it must know, as JSON."""
    health: str
    """How it was when it was asked last, as JSON."""
    state: str
    since_unix: float
    """When it came into its state."""


_COLUMNS = [instances.c[name] for name in WatchedRow.__dataclass_fields__]


class WatchedInstances:
    """What is kept of watched instances. Who was declared dead watches none any more."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def watch(self, row: WatchedRow) -> None:
        """From now on this process watches the instance, whoever did before.

        Raises:
            FencedError: this process was declared dead.
        """
        values = {**asdict(row), "owner": self._writer.worker}
        await self._writer.write(work=lambda line: put(line, "instances", values))

    async def bring(self, rows: Sequence[WatchedRow]) -> None:
        """Keep instances that were kept elsewhere, for whoever claims them; those that are here already stay."""

        def work(connection: Connection) -> None:
            for row in rows:
                insert_once(connection, "instances", asdict(row))

        await self._writer.write(work=work)

    async def change(self, row: WatchedRow, owed: Sequence[tuple[str, str]] = ()) -> bool:
        """Keep how an instance is, and what is to be told of it, in one transaction.

        Args:
            owed: Keys and bodies of deliveries.

        Returns:
            False when this process watches it no more: it was released, or belongs to another. Nothing is kept then.

        Raises:
            FencedError: this process was declared dead.
        """
        mine = sa.and_(instances.c.instance == row.instance, instances.c.owner == self._writer.worker)
        changed = sa.update(instances).where(mine, instances.c.run == row.run).values(asdict(row))

        def work(connection: Connection) -> bool:
            if connection.execute(changed).rowcount != 1:
                return False
            for key, body in owed:
                owe(connection, key, body, self._writer.worker)
            return True

        return bool(await self._writer.write(work=work))

    async def remove(self, *, instance: str | None = None, run: str | None = None) -> None:
        """Nobody watches *instance*, or the one that *run* made, any more.

        Raises:
            FencedError: this process was declared dead.
        """
        which = instances.c.instance == instance if instance is not None else instances.c.run == run
        await self._writer.write(work=lambda line: line.execute(sa.delete(instances).where(which)))

    async def claim(self) -> list[WatchedRow]:
        """Take a fair part of the instances that nobody watches; empty when there is none.

        Raises:
            FencedError: this process was declared dead.
        """
        alive = sa.select(workers.c.id).where(~workers.c.is_dead)
        free = sa.or_(instances.c.owner.is_(None), instances.c.owner.not_in(alive))
        free = sa.and_(free, instances.c.state != GONE)
        takers = sa.select(sa.func.count()).where(~workers.c.is_dead, workers.c.takes_runs)

        def work(connection: Connection) -> list[WatchedRow]:
            self._writer.fence(connection)
            count = int(connection.execute(sa.select(sa.func.count()).where(free)).scalar_one())
            others = int(connection.execute(takers).scalar_one())
            share = min(-(-count // max(others, 1)), AT_ONCE)
            query = sa.select(*_COLUMNS).where(free).order_by(instances.c.instance).limit(share)
            found = [WatchedRow(*row) for row in connection.execute(query.with_for_update(skip_locked=True))]
            names = [row.instance for row in found]
            taken = sa.update(instances).where(instances.c.instance.in_(names))
            connection.execute(taken.values(owner=self._writer.worker))
            return found

        return await self._database.change(work)

    async def all(self) -> list[WatchedRow]:
        """Every instance that is watched, whoever does it, and those that are gone since yesterday."""
        recent = sa.or_(instances.c.state != GONE, instances.c.since_unix > time.time() - GONE_STAYS_S)
        query = sa.select(*_COLUMNS).where(recent).order_by(instances.c.instance)
        return await self._database.ask(lambda line: [WatchedRow(*row) for row in line.execute(query)])

    async def forget(self) -> None:
        """Remove those that are long gone."""
        old = sa.and_(instances.c.state == GONE, instances.c.since_unix < time.time() - GONE_STAYS_S)
        await self._writer.write(work=lambda line: line.execute(sa.delete(instances).where(old)))
