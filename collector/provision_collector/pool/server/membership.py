"""This process among the servers of one database: its lease, the runs that it takes, and what it hears of the others.

On a database of its own it takes every unfinished run when it starts, and that is all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import structlog
from sqlalchemy.exc import SQLAlchemyError

from ..store.database import why
from ..store.leases import Orders
from ..store.notices import Notice
from ..store.store import Store
from ..store.streams import Place
from ..store.writer import FencedError
from .feed import Feed, Feeds
from .sealed import Seal

BEATS = 5
"""So often the lease is renewed before it would end."""
CUT_AFTER_S = 5.0
"""Without the database for so long, this server sends its followers away and says that it is not well."""
SWEEP_EVERY_S = 5.0
"""What a lost notice may cost."""
AT_ONCE = 50
"""So many runs are taken in one step."""
OTHERS_TURN_S = 0.1
"""Between two steps, so that every server gets its part."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Duties:
    """What the server does with what comes."""

    take: Callable[[Sequence[int]], Awaitable[None]]
    """Watch the runs with these numbers."""
    obey: Callable[[Orders], Awaitable[None]]
    """Carry out what others want."""
    drop: Callable[[], Awaitable[None]]
    """Stop watching: the runs are others' now."""
    look_after: Callable[[], Awaitable[None]]
    """Watch instances that nobody watches."""
    room: Callable[[], int]
    """So many runs more can be watched."""


class Membership:
    """The place of this process. Belongs to one event loop.

    Args:
        takes_runs: It watches runs; else it only answers.
    """

    def __init__(self, store: Store, feeds: Feeds, duties: Duties, *, takes_runs: bool) -> None:
        self.seal = Seal()
        self._store = store
        self._feeds = feeds
        self._duties = duties
        self._takes_runs = takes_runs
        self._heard_at = time.monotonic()
        self._work = asyncio.Event()
        self._news: set[int] = set()
        self._has_news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_cut(self) -> bool:
        """The database has not answered for a while."""
        return self._store.is_shared and time.monotonic() - self._heard_at > CUT_AFTER_S

    async def join(self) -> None:
        """Come, and begin to work."""
        await self._store.leases.join(self.seal.public_key, takes_runs=self._takes_runs)
        self._heard_at = time.monotonic()
        self._store.notices.hear(self._on_notice)
        loops = [self._working()]
        if self._store.is_shared:
            loops += [self._beating(), self._hearing()]
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        self._work.set()

    def wake(self) -> None:
        """There may be something to do."""
        self._work.set()

    async def stop(self) -> None:
        """Take nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def leave(self) -> None:
        """Give what is left back to the others, and go."""
        try:
            await self._store.leases.give_back()
        except SQLAlchemyError as error:
            log.warning("lease_not_given_back", why=why(error))
        await asyncio.to_thread(self._store.leases.close)

    def _on_notice(self, notice: Notice) -> None:
        if notice.what in ("free", "orders", "everything"):
            self._work.set()
        if notice.what == "everything":
            self._news.update(feed.rid for feed in self._feeds.all())
        self._news |= notice.runs
        if self._news:
            self._has_news.set()

    # -- the lease

    async def _beating(self) -> None:
        leases = self._store.leases
        every_s = leases.dead_after_s / BEATS
        while True:
            await asyncio.sleep(every_s)
            try:
                if not await leases.beat():
                    await self._come_back()
                self._heard_at = time.monotonic()
                if dead := await leases.reap():
                    log.warning("servers_taken_for_dead", servers=dead)
                    self._work.set()
            except SQLAlchemyError as error:
                log.warning("lease_not_renewed", why=why(error))
            if self.is_cut:
                self._feeds.cut()

    async def _come_back(self) -> None:
        """This process was declared dead: forget its runs, and come again as another."""
        log.warning("taken_for_dead", server=self._store.leases.me)
        await self._duties.drop()
        await self._store.leases.join(self.seal.public_key, takes_runs=self._takes_runs)
        self._work.set()

    # -- runs that nobody watches, and what others want

    async def _working(self) -> None:
        while True:
            wait_s = SWEEP_EVERY_S if self._store.is_shared else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._work.wait()
            except TimeoutError:
                pass
            self._work.clear()
            try:
                await self._step()
            except FencedError:
                pass  # the next beat says so
            except SQLAlchemyError as error:
                log.warning("runs_not_taken", why=why(error))

    async def _step(self) -> None:
        leases = self._store.leases
        while self._takes_runs and (room := self._duties.room()) > 0:
            if not (taken := await leases.claim(min(room, AT_ONCE))):
                break
            await self._duties.take(taken)
            await asyncio.sleep(OTHERS_TURN_S if self._store.is_shared else 0)
        if self._takes_runs:  # such as another server gave to this one
            await self._duties.take(await leases.mine() if self._store.is_shared else ())
            await self._duties.look_after()
        orders = await leases.orders()
        if orders.stopping or orders.released or orders.secrets:
            await self._duties.obey(orders)

    # -- what is told of runs that others watch

    async def _hearing(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SWEEP_EVERY_S):
                    await self._has_news.wait()
                rids, self._news = self._news, set()
            except TimeoutError:
                rids = {feed.rid for feed in self._feeds.all()}
            self._has_news.clear()
            try:
                await self._hear([feed for feed in self._feeds.all() if feed.rid in rids])
            except SQLAlchemyError as error:
                log.warning("news_not_heard", why=why(error))
                self._news |= rids

    async def _hear(self, feeds: Sequence[Feed]) -> None:
        followed = [feed for feed in feeds if feed.listeners and not feed.is_own]
        by_rid = {feed.rid: feed for feed in followed}
        ended = await self._store.ended(list(by_rid))  # asked before reading
        while followed:
            at = [Place(feed.day, feed.rid, feed.last_id) for feed in followed]
            found = await self._store.streams.news(at)
            for rid, rows in groupby(found, key=lambda row: row.rid):
                by_rid[rid].tell([(row.id, row.body) for row in rows])
            if not found:
                break
        for rid in ended:
            by_rid[rid].end()
        for feed in feeds:
            if not feed.is_own:
                self._feeds.drop(feed)
