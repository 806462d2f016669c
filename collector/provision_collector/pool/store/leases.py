"""Which server process watches which run: a lease for each process, by the database's own clock.

A process that is not heard of for `dead_after_s` is declared dead: what it writes from then on is refused, and its runs
go to the others. It comes back under a new id.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from .database import Database
from .notices import Notices
from .schema import commands, deliveries, runs, workers
from .writer import Writer

DEAD_AFTER_S = 10.0
FORGOTTEN_AFTER_S = 86_400.0
"""A dead process is remembered so long, for whoever looks into the table."""


@dataclass(frozen=True)
class Orders:
    """What others want of the runs of this process."""

    stopping: frozenset[int]
    released: frozenset[int]
    secrets: tuple[tuple[int, bytes], ...]
    """The number of a run, and sealed secrets for it."""


@dataclass(frozen=True)
class Worker:
    """A server process that watches runs."""

    id: str
    public_key: bytes


class Leases:
    """The lease of this process. *home* names its folder, where the mirrors of its runs lie."""

    def __init__(self, database: Database, writer: Writer, notices: Notices, *, home: str) -> None:
        self._database = database
        self._writer = writer
        self._notices = notices
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease")
        self.home = home
        self.dead_after_s = DEAD_AFTER_S

    @property
    def me(self) -> str | None:
        """The id of this process; None before `join`."""
        return self._writer.worker

    async def join(self, public_key: bytes, *, takes_runs: bool) -> None:
        """Come as a new process, with a new id.

        Args:
            public_key: Seals what only this process may read.
            takes_runs: It watches runs; else it only answers.
        """
        name = f"{socket.gethostname()}:{os.getpid()}"
        me = f"{name}:{secrets.token_hex(6)}"
        values = {"id": me, "name": name, "takes_runs": takes_runs, "public_key": public_key}

        def work(connection: Connection) -> None:
            if not self._database.is_shared:  # nobody else can be there
                others = connection.execute(sa.select(workers.c.id).where(~workers.c.is_dead)).scalars().all()
                _bury(connection, others)
                connection.execute(sa.update(runs).where(runs.c.verdict.is_(None)).values(owner=None))
            connection.execute(sa.insert(workers).values(seen=sa.func.now(), **values))

        await self._database.change(work)
        self._writer.worker = me

    async def beat(self) -> bool:
        """Say that this process lives; False when it was declared dead."""
        alive = (
            sa.update(workers).where(workers.c.id == self.me, ~workers.c.is_dead).values(seen=sa.func.now())
        )
        return await self._database.change_in(self._thread, lambda line: line.execute(alive).rowcount == 1)

    async def reap(self) -> list[str]:
        """Declare those dead who were not heard of, and free their runs; returns their ids."""
        limit = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, self.dead_after_s)
        late = sa.select(workers.c.id).where(~workers.c.is_dead, workers.c.seen < limit)
        gone = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, FORGOTTEN_AFTER_S)

        def work(connection: Connection) -> list[str]:
            dead = list(connection.execute(late.with_for_update(skip_locked=True)).scalars())
            if dead:
                _bury(connection, dead)
                self._notices.announce_free(connection)
            connection.execute(sa.delete(workers).where(workers.c.is_dead, workers.c.seen < gone))
            return dead

        return await self._database.change_in(self._thread, work)

    async def claim(self, most: int) -> list[int]:
        """Take a fair part of the runs that nobody watches; returns their numbers, at most *most*.

        Hooks that nobody is about to tell come with them.

        Raises:
            FencedError: this process was declared dead.
        """
        alive = sa.select(workers.c.id).where(~workers.c.is_dead)
        nobodys = sa.or_(
            runs.c.owner.is_(None), runs.c.owner.not_in(alive)
        )  # it may have died before it got the run
        free = sa.and_(nobodys, runs.c.verdict.is_(None))
        takers = sa.select(sa.func.count()).where(~workers.c.is_dead, workers.c.takes_runs)

        def work(connection: Connection) -> list[int]:
            self._writer.fence(connection)
            count = int(connection.execute(sa.select(sa.func.count()).where(free)).scalar_one())
            others = int(connection.execute(takers).scalar_one())
            share = min(-(-count // max(others, 1)), most)
            unsettled = sa.update(deliveries).where(deliveries.c.owner.is_(None), ~deliveries.c.is_settled)
            connection.execute(unsettled.values(owner=self.me))
            if share <= 0:
                return []
            query = sa.select(runs.c.rid).where(free).order_by(runs.c.created_unix).limit(share)
            found = list(connection.execute(query.with_for_update(skip_locked=True)).scalars())
            taken = sa.update(runs).where(runs.c.rid.in_(found)).values(owner=self.me, epoch=runs.c.epoch + 1)
            connection.execute(taken)
            return found

        return await self._database.change(work)

    async def mine(self) -> list[int]:
        """The numbers of the unfinished runs that are this process's."""
        query = sa.select(runs.c.rid).where(runs.c.owner == self.me, runs.c.verdict.is_(None))
        return await self._database.ask(lambda line: list(line.execute(query).scalars()))

    async def give_back(self, rids: Sequence[int] | None = None) -> None:
        """Leave runs to the others; None: all of them, and this process goes."""

        def work(connection: Connection) -> None:
            mine = sa.and_(runs.c.owner == self.me, runs.c.verdict.is_(None))
            if rids is not None:
                mine = sa.and_(mine, runs.c.rid.in_(rids))
            connection.execute(sa.update(runs).where(mine).values(owner=None))
            if rids is None:
                _bury(connection, [str(self.me)])
            self._notices.announce_free(connection)

        await self._database.change(work)

    async def orders(self) -> Orders:
        """What is wanted of this process's runs; secrets are given once."""
        wanted = sa.or_(runs.c.is_stopping, runs.c.is_released)
        query = sa.select(runs.c.rid, runs.c.is_stopping, runs.c.is_released)
        query = query.where(runs.c.owner == self.me, runs.c.verdict.is_(None), wanted)
        sealed = sa.select(commands.c.id, commands.c.rid, commands.c.sealed).where(
            commands.c.worker == self.me
        )

        def work(connection: Connection) -> Orders:
            found = connection.execute(query).all()
            given = connection.execute(sealed.order_by(commands.c.id)).all()
            if given:
                connection.execute(
                    sa.delete(commands).where(commands.c.id.in_([number for number, _, _ in given]))
                )
            return Orders(
                frozenset(rid for rid, is_stopping, _ in found if is_stopping),
                frozenset(rid for rid, _, is_released in found if is_released),
                tuple((rid, bytes(data)) for _, rid, data in given),
            )

        return await self._database.change(work)

    async def order(self, rid: int, **wanted: bool) -> None:
        """Say that a run, whoever watches it, is to be stopped (`is_stopping`) or released (`is_released`)."""

        def work(connection: Connection) -> None:
            connection.execute(
                sa.update(runs).where(runs.c.rid == rid, runs.c.verdict.is_(None)).values(**wanted)
            )
            self._notices.announce_orders(connection)

        await self._database.change(work)

    async def watcher_of(self, rid: int | None) -> Worker | None:
        """The process that watches a run; for None the one that should take the next."""
        if rid is not None:
            query = sa.select(workers.c.id, workers.c.public_key).join(runs, runs.c.owner == workers.c.id)
            query = query.where(runs.c.rid == rid, ~workers.c.is_dead)
        else:
            going = sa.and_(runs.c.owner == workers.c.id, runs.c.verdict.is_(None))
            query = sa.select(workers.c.id, workers.c.public_key).outerjoin(runs, going)
            query = query.where(~workers.c.is_dead, workers.c.takes_runs)
            query = query.group_by(workers.c.id, workers.c.public_key).order_by(sa.func.count(runs.c.rid))

        def read(connection: Connection) -> Worker | None:
            found = connection.execute(query.limit(1)).first()
            return Worker(found[0], bytes(found[1])) if found is not None else None

        return await self._database.ask(read)

    async def give_secrets(self, rid: int, worker: str, sealed: bytes) -> None:
        """Send secrets, sealed to *worker*, for a run that it watches."""

        def work(connection: Connection) -> None:
            connection.execute(sa.insert(commands).values(rid=rid, worker=worker, sealed=sealed))
            self._notices.announce_orders(connection)

        await self._database.change(work)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)


def _bury(connection: Connection, dead: Sequence[str]) -> None:
    connection.execute(sa.update(workers).where(workers.c.id.in_(dead)).values(is_dead=True))
    going = sa.and_(runs.c.owner.in_(dead), runs.c.verdict.is_(None))
    connection.execute(sa.update(runs).where(going).values(owner=None))
    unsettled = sa.and_(deliveries.c.owner.in_(dead), ~deliveries.c.is_settled)
    connection.execute(sa.update(deliveries).where(unsettled).values(owner=None))
    connection.execute(sa.delete(commands).where(commands.c.worker.in_(dead)))
