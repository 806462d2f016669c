"""One database, SQLite or PostgreSQL: opened, brought up to date, and asked in threads with bounded waits."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError

from ...distribution import install_hint
from ...errors import LocalMachineError, UsageError
from ...storage import open_private, private_folder
from . import schema

SQLITE_FILE = "server.sqlite"
ANSWER_WITHIN_S = 10.0
"""A database of another machine that says nothing for so long is taken for lost."""
CONNECTIONS = 4
"""For questions; beside them there is one that writes, one for the lease, one that listens."""
PASSING = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    )
)
"""What SQLite says of a disk, and of others that use it."""
PASSING_STATES = ("08", "25", "40", "42501", "53", "55", "57", "58")
"""The beginnings of what PostgreSQL says of a lost connection, a standby that takes no writes, others that were quicker, missing
rights, a full disk, somebody's lock, its own end, and its machine."""
MIGRATION_LOCK = 0x70726F76
T = TypeVar("T")
Work = Callable[[Connection], T]


class Database:
    """A database and the threads that ask it. `open` makes the tables where they are missing."""

    def __init__(self, engine: Engine, url: URL, *, is_shared: bool) -> None:
        self.engine = engine
        self.url = url
        self.is_shared = is_shared
        """Several servers may work on it: PostgreSQL."""
        self._asking = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="database")

    @classmethod
    def open(cls, url: str | None, folder: Path) -> Self:
        """Open *url*, or the SQLite file in *folder*. May block.

        Raises:
            UsageError: it is no address of a database that this program knows, its driver is not installed, it cannot be
                reached or entered, or its tables are of a newer release. LocalMachineError: this disk does not take it.
        """
        if url is None:
            private_folder(folder)
            path = folder / SQLITE_FILE
            os.close(open_private(path, os.O_RDWR))
            address = URL.create("sqlite+pysqlite", database=str(path))
            engine = _sqlite(address)
        else:
            address = _address(url)
            engine = _postgres(address)
        database = cls(engine, address, is_shared=url is not None)
        try:
            migrate(engine, shown(address))
        except DBAPIError as error:
            database.close()
            if not is_passing(error):
                raise
            raise unreachable(address, error) from None
        except BaseException:
            database.close()
            raise
        return database

    async def ask(self, work: Work[T]) -> T:
        """What *work* reads, on a connection of its own, in a thread.

        Raises:
            sqlalchemy.exc.DBAPIError: the database does not answer, or not so.
        """
        return await self._bounded(self._asking, lambda line: line.run(self.engine, work, writes=False))

    async def change(self, work: Work[T]) -> T:
        """Carry out *work* in a transaction of its own, in a thread; what it changed is durable when this returns.

        Raises:
            sqlalchemy.exc.DBAPIError: the database does not take it, or did not say whether it has.
        """
        return await self._bounded(self._asking, lambda line: line.run(self.engine, work, writes=True))

    async def change_in(self, thread: ThreadPoolExecutor, work: Work[T]) -> T:
        """As `change`, in a thread of the caller's own, behind nobody."""
        return await self._bounded(thread, lambda line: line.run(self.engine, work, writes=True))

    async def _bounded(self, threads: ThreadPoolExecutor, call: Callable[[Line], T]) -> T:
        line = Line()
        asked = asyncio.get_running_loop().run_in_executor(threads, call, line)
        if self.is_shared:
            done, _ = await asyncio.wait((asked,), timeout=ANSWER_WITHIN_S)
            while not done:
                line.cut()
                done, _ = await asyncio.wait((asked,), timeout=ANSWER_WITHIN_S)
        return await asked

    def close(self) -> None:
        """Let go of every connection; what is being asked ends first."""
        self._asking.shutdown(wait=True, cancel_futures=True)
        self.engine.dispose()


class Line:
    """One question on its way: `cut` ends the wait for an answer that does not come, from another thread."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def run(self, engine: Engine, work: Work[T], *, writes: bool) -> T:
        """What *work* gives, in a transaction."""
        opened = engine.connect().execution_options(writes=writes)
        with opened as connection, self._known(connection), connection.begin():
            return work(connection)

    @contextmanager
    def _known(self, connection: Connection) -> Iterator[None]:
        number = getattr(connection.connection.dbapi_connection, "fileno", None)
        with self._lock:
            self._descriptor = number() if number is not None else None
        try:
            yield
        finally:
            with self._lock:
                self._descriptor = None

    def cut(self) -> None:
        """Take the connection for lost: whoever waits for its answer is told so."""
        with self._lock, suppress(OSError):
            if self._descriptor is not None:
                with socket.socket(fileno=os.dup(self._descriptor)) as copy:
                    copy.shutdown(socket.SHUT_RDWR)


def is_passing(error: Exception) -> bool:
    """Whether *error* is no fault of what was asked: a lost connection, a full disk, missing rights, a database that restarts."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, sqlite3.Error):
        return (getattr(error.orig, "sqlite_errorcode", 0) & 0xFF) in PASSING
    if isinstance(error, DBAPIError) and (state := getattr(error.orig, "sqlstate", None)) is not None:
        return str(state).startswith(PASSING_STATES)
    return isinstance(error, OperationalError | InterfaceError | OSError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def why(error: BaseException) -> str:
    """What the database's driver says, in one line."""
    told = str(getattr(error, "orig", None) or error).strip()
    return told.splitlines()[0] if told else type(error).__name__


def shown(url: URL) -> str:
    """The address without its password."""
    return (
        str(url.database)
        if url.get_backend_name() == "sqlite"
        else url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
    )


def unreachable(url: URL, error: Exception) -> UsageError | LocalMachineError:
    """What is said when the database cannot be used now."""
    if url.get_backend_name() == "sqlite":
        return LocalMachineError(
            f"cannot use `{shown(url)}`: {why(error)}", hint="make room for the server's state directory"
        )
    return UsageError(
        f"cannot use the database `{shown(url)}`: {why(error)}",
        hint=f"`psql {shown(url)}` says the same; name, password and rights are the database's matter",
    )


def _address(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise UsageError(
            "`--database` is no address of a database", hint="such as `postgresql://user:password@host/name`"
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise UsageError(
            f"`--database` takes PostgreSQL, not `{url.get_backend_name()}`",
            hint="such as `postgresql://user:password@host/name`; without the option the server keeps a file of its own",
        )
    return url.set(drivername="postgresql+psycopg")


def _postgres(url: URL) -> Engine:
    try:
        import psycopg  # noqa: F401 - whether it is there
    except ImportError as missing:
        raise UsageError(
            f"`--database` needs `{missing.name}`, which speaks to PostgreSQL", hint=install_hint("postgres")
        ) from None
    words = {
        "connect_timeout": 5,
        "application_name": "provision",
        "keepalives_idle": 2,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": 5000,
        "options": "-c idle_in_transaction_session_timeout=5s -c lock_timeout=8s -c client_encoding=UTF8",
    }
    return sa.create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=3,
        pool_timeout=ANSWER_WITHIN_S,
        pool_pre_ping=True,
        connect_args={name: value for name, value in words.items() if name not in url.query},
    )


def _sqlite(url: URL) -> Engine:
    engine = sa.create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=3,
        connect_args={"timeout": 30.0, "isolation_level": None, "check_same_thread": False},
    )

    def on_connect(connection: object, _: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def migrate(engine: Engine, name: str) -> None:
    """Bring the tables up to date, one server at a time.

    Args:
        engine: The database.
        name: What it is called in messages.

    Raises:
        UsageError: a newer release made them, and this one cannot work with them.
    """
    if _is_current(engine, name):
        return
    from alembic import command  # takes a while, and most starts need none of it
    from alembic.config import Config

    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SET lock_timeout = '60s'"))
            connection.execute(sa.select(sa.func.pg_advisory_lock(MIGRATION_LOCK)))
            connection.commit()
        try:
            if not _is_current(engine, name):
                config = Config()
                config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        finally:
            if engine.dialect.name == "postgresql":
                connection.rollback()
                connection.execute(sa.select(sa.func.pg_advisory_unlock(MIGRATION_LOCK)))
                connection.execute(sa.text("RESET lock_timeout"))
                connection.commit()


def _is_current(engine: Engine, name: str) -> bool:
    with engine.connect().execution_options(writes=False) as connection:
        if not sa.inspect(connection).has_table("meta"):
            return False
        facts = dict(connection.execute(sa.select(schema.meta.c.name, schema.meta.c.value)).all())
    if int(facts["readable_by"]) > schema.VERSION:
        raise UsageError(
            f"the tables in `{name}` are of version {facts['version']}, and this provision knows {schema.VERSION}",
            hint="use the provision that made them, or a newer one; or another `--database` or `--state-dir`",
        )
    return int(facts["version"]) >= schema.VERSION
