"""What servers on one database tell each other at once: which runs have news, that some are free, that some are to end.

A notice is a hint and may be lost: whoever waits for one looks by itself every few seconds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa
import structlog
from sqlalchemy import Connection

from .database import Database

CHANNEL = "provision"
MOST_BYTES = 7000
"""PostgreSQL takes notices below 8000 bytes."""
LOOK_EVERY_S = 1.0
AGAIN_S = 1.0
CLOSE_WITHIN_S = 5.0
log = structlog.get_logger()


@dataclass(frozen=True)
class Notice:
    """Something has changed: these runs have news, or `what` (`free`, `orders`, `everything`)."""

    what: str
    runs: frozenset[int] = frozenset()


class Notices:
    """Tells and hears. On a database that is this server's alone there is nobody to tell."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread: threading.Thread | None = None
        self._is_closing = threading.Event()

    def announce(self, connection: Connection, rids: set[int]) -> None:
        """Tell, when the transaction is done, that runs have news."""
        for text in _pieces(sorted(rids)):
            self._notify(connection, f"news {text}")

    def announce_free(self, connection: Connection) -> None:
        """Tell, when the transaction is done, that there are runs which nobody watches."""
        self._notify(connection, "free")

    def announce_orders(self, connection: Connection) -> None:
        """Tell, when the transaction is done, that a run is to be stopped or released, or gets its secrets."""
        self._notify(connection, "orders")

    def _notify(self, connection: Connection, text: str) -> None:
        if self._database.is_shared:
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, text)))

    def hear(self, on_notice: Callable[[Notice], None]) -> None:
        """Call *on_notice*, on this event loop, for whatever is told from now on."""
        if self._database.is_shared:
            loop = asyncio.get_running_loop()

            def tell(notice: Notice) -> None:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(on_notice, notice)

            self._thread = threading.Thread(target=self._listen, args=(tell,), name="notices", daemon=True)
            self._thread.start()

    async def close(self) -> None:
        """Hear nothing more."""
        self._is_closing.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, CLOSE_WITHIN_S)

    def _listen(self, tell: Callable[[Notice], None]) -> None:
        import psycopg

        address = self._database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not self._is_closing.is_set():
            try:
                with psycopg.connect(
                    address,
                    autocommit=True,
                    application_name="provision notices",
                    connect_timeout=5,
                    keepalives_idle=2,
                    keepalives_interval=1,
                    keepalives_count=3,
                ) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    tell(Notice("everything"))
                    while not self._is_closing.is_set():
                        for told in connection.notifies(timeout=LOOK_EVERY_S):
                            tell(_read(told.payload))
            except psycopg.Error as error:
                log.warning("notices_not_heard", why=str(error).strip())
                self._is_closing.wait(AGAIN_S)


def _read(text: str) -> Notice:
    what, _, numbers = text.partition(" ")
    return Notice(what, frozenset(int(number) for number in numbers.split(",") if number))


def _pieces(rids: list[int]) -> Iterator[str]:
    text = ""
    for rid in rids:
        if len(text) + 22 > MOST_BYTES:
            yield text
            text = ""
        text += f",{rid}" if text else str(rid)
    if text:
        yield text
