"""What servers on one database tell each other of machines: their host keys, and what their runs said about them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from ..scorecard import KEPT_RUNS, Entry
from .database import Database
from .schema import host_keys, scorecards
from .writer import Writer, insert_once, put


class Machines:
    """What is known of machines."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def trust(self, keys: Sequence[tuple[str, str]]) -> None:
        """Keep host keys, as ``(name, key)``, for every server."""

        def work(connection: Connection) -> None:
            for entry, key in keys:
                insert_once(connection, "host_keys", {"entry": entry, "key": key})

        await self._writer.write(work=work)

    async def trusted(self, entry: str) -> list[str]:
        """The host keys that servers have seen under a name."""
        query = sa.select(host_keys.c.key).where(host_keys.c.entry == entry)
        return await self._database.ask(lambda line: list(line.execute(query).scalars()))

    async def score(self, entry: Entry) -> None:
        """Keep what a run says about its machine; of each the newest `KEPT_RUNS`."""
        mine = scorecards.c.instance == entry.instance
        newest = sa.select(scorecards.c.run).where(mine).order_by(scorecards.c.ended.desc()).limit(KEPT_RUNS)
        values = {
            "instance": entry.instance, "run": entry.run, "host": entry.host, "ended": entry.ended, "entry": entry.text
        }  # fmt: skip

        def work(connection: Connection) -> None:
            put(connection, "scorecards", values)
            connection.execute(sa.delete(scorecards).where(mine, scorecards.c.run.not_in(newest)))

        await self._writer.write(work=work)

    async def scores(self) -> list[Entry]:
        """What all runs said about their machines, by instance, the oldest first."""
        table = scorecards.c
        query = sa.select(table.instance, table.host, table.run, table.ended, table.entry)
        query = query.order_by(table.instance, table.ended)
        return await self._database.ask(lambda line: [Entry(*found) for found in line.execute(query)])
