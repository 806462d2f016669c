"""What the server knows of its runs, in SQLite: every order, how far it came, and which hooks are still owed.

A run that was answered for is here before the answer leaves; no secret is, only the names of those that were given.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Self

import aiosqlite
import structlog
from provision_agent.contract.parsing import to_json
from pydantic import TypeAdapter, ValidationError

from ...errors import LocalMachineError, UsageError
from ...storage import FileLock, LockBusyError, open_private
from .rows import Row, Summary

VERSION = 1
RETRY_S = 2.0
_SCHEMA = """
CREATE TABLE runs (
    run TEXT PRIMARY KEY, created_unix REAL NOT NULL, request_hash TEXT NOT NULL, instance TEXT NOT NULL,
    plan TEXT NOT NULL, profile TEXT NOT NULL, labels TEXT NOT NULL, secret_names TEXT NOT NULL,
    replaces INTEGER NOT NULL, joined TEXT, stem TEXT, is_stopping INTEGER NOT NULL DEFAULT 0,
    verdict TEXT, summary TEXT
);
CREATE INDEX runs_by_time ON runs (created_unix DESC);
CREATE TABLE deliveries (
    key TEXT PRIMARY KEY, body TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, is_settled INTEGER NOT NULL DEFAULT 0
);
"""

log = structlog.get_logger()


_COLUMNS = tuple(f.name for f in fields(Row))
_JSON = frozenset(("instance", "plan", "labels", "secret_names", "summary"))
_ROW = TypeAdapter(Row)
_SUMMARY = TypeAdapter(Summary)
Value = str | int | float | None
"""What SQLite keeps in a column."""


class Store:
    """The database of one server; `open` refuses a folder that another server uses."""

    def __init__(self, database: aiosqlite.Connection, lock: FileLock) -> None:
        self._database = database
        self._lock = lock

    @classmethod
    async def open(cls, folder: Path) -> Self:
        """Open or make the database in *folder*. Raises UsageError when another server or a newer version has it."""
        lock = FileLock(folder / "lock", wait_s=0)
        try:
            await lock.acquire_async()
        except LockBusyError:
            raise UsageError(
                f"another `provision serve` uses `{folder}`",
                hint="stop it, or give this one its own `--state-dir`",
            ) from None
        path = folder / "server.sqlite"
        await asyncio.to_thread(lambda: os.close(open_private(path, os.O_RDWR)))
        database = await aiosqlite.connect(path, isolation_level=None)
        await database.execute("PRAGMA journal_mode = WAL")
        await database.execute("PRAGMA synchronous = NORMAL")
        store = cls(database, lock)
        await store._migrate(folder)
        return store

    async def _migrate(self, folder: Path) -> None:
        rows = list(await self._database.execute_fetchall("PRAGMA user_version"))
        version = int(rows[0][0])
        if version == 0:
            await self._database.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {VERSION};COMMIT;")
        elif version > VERSION:
            await self.close()
            raise UsageError(
                f"`{folder}/server.sqlite` is of version {version}, and this provision reads {VERSION}",
                hint="use the provision that wrote it, or another `--state-dir`",
            )

    async def close(self) -> None:
        """Close the database and let another server have it."""
        await self._database.close()
        self._lock.release()

    async def add(self, row: Row) -> bool:
        """Record a new run; False when its id is taken. Raises LocalMachineError when it cannot be written."""
        values = await asyncio.to_thread(lambda: [_to_sql(name, getattr(row, name)) for name in _COLUMNS])
        marks = ", ".join("?" * len(_COLUMNS))
        try:
            await self._database.execute(
                f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608
                values,
            )
        except sqlite3.IntegrityError:
            return False
        except sqlite3.OperationalError as error:
            raise LocalMachineError(
                f"the run cannot be written down: {error}", hint="make room for the server's state directory"
            ) from None
        return True

    async def update(self, row: Row, **changes: object) -> None:
        """Change *row*, in memory and on the disk."""
        for name, value in changes.items():
            setattr(row, name, value)
        sets = ", ".join(f"{name} = ?" for name in changes)
        values = [_to_sql(name, value) for name, value in changes.items()]
        await self._surely(f"UPDATE runs SET {sets} WHERE run = ?", [*values, row.run])  # noqa: S608

    async def find(self, run: str, *, with_plan: bool = True) -> Row | None:
        """The run with this id; None when there is none.

        Args:
            run: Its id.
            with_plan: Read its plan, too, which may be large; else that is empty.
        """
        found = await self._select("WHERE run = ?", [run], with_plan=with_plan)
        return found[0] if found else None

    async def unfinished(self) -> list[Row]:
        """Every run without a verdict, oldest first."""
        return await self._select("WHERE verdict IS NULL ORDER BY created_unix", [])

    async def finished(self, *, verdict: str | None, limit: int) -> list[Row]:
        """The newest runs that ended; without their plans, which no list shows.

        Args:
            verdict: Only those with this one; None: any.
            limit: At most so many.
        """
        where, values = ("= ?", [verdict]) if verdict is not None else ("IS NOT NULL", [])
        rest = f"WHERE verdict {where} ORDER BY created_unix DESC LIMIT ?"
        return await self._select(rest, [*values, limit], with_plan=False)

    async def forget(self, *, keep: int) -> list[str]:
        """Remove all but the newest *keep* finished runs; returns the ids of those that went."""
        rows = await self._database.execute_fetchall(
            "DELETE FROM runs WHERE run IN (SELECT run FROM runs WHERE verdict IS NOT NULL "
            "ORDER BY created_unix DESC LIMIT -1 OFFSET ?) RETURNING run",
            [keep],
        )
        gone = [str(row[0]) for row in rows]
        for run in gone:
            await self._database.execute(
                "DELETE FROM deliveries WHERE key LIKE ? AND is_settled", [f"{run}:%"]
            )
        return gone

    async def _surely(self, change: str, values: Sequence[Value]) -> int:
        """Carry out *change*, waiting for a full disk to get room; returns how many rows it touched."""
        while True:
            try:
                return (await self._database.execute(change, values)).rowcount
            except sqlite3.OperationalError as error:
                log.warning("store_not_written", why=str(error))
                await asyncio.sleep(RETRY_S)

    async def _select(self, rest: str, values: Sequence[Value], *, with_plan: bool = True) -> list[Row]:
        columns = [name if with_plan or name != "plan" else "'{}'" for name in _COLUMNS]
        rows = await self._database.execute_fetchall(f"SELECT {', '.join(columns)} FROM runs {rest}", values)  # noqa: S608
        return await asyncio.to_thread(lambda: [_row_of(row) for row in rows])

    # -- hooks that are owed

    async def owe(self, key: str, body: str) -> bool:
        """Record a delivery before its first attempt; False when its key is known."""
        return (
            await self._surely("INSERT OR IGNORE INTO deliveries (key, body) VALUES (?, ?)", [key, body]) == 1
        )

    async def settle(self, key: str, *, attempts: int) -> None:
        """The delivery arrived, or was given up."""
        await self._surely(
            "UPDATE deliveries SET is_settled = 1, attempts = ? WHERE key = ?", [attempts, key]
        )

    async def owed(self) -> list[tuple[str, str]]:
        """``(key, body)`` of every delivery that is not settled."""
        rows = await self._database.execute_fetchall("SELECT key, body FROM deliveries WHERE is_settled = 0")
        return [(str(key), str(body)) for key, body in rows]


def _to_sql(name: str, value: object) -> Value:
    if name in _JSON:
        return None if value is None else json.dumps(to_json(value), separators=(",", ":"))
    assert isinstance(value, Value)
    return value


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
