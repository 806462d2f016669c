"""State that was kept elsewhere, brought into this release's tables: an earlier release's files, or a server's SQLite file."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import sqlalchemy as sa
from provision_agent.contract.parsing import ParseError, parse
from sqlalchemy import Connection

from ...errors import UsageError
from ...instance import Instance
from ...run.registry import RunFiles
from . import schema
from .database import SQLITE_FILE, Database
from .home import name_of
from .rows import Row
from .store import add_row, select_rows
from .streams import CHUNK_BYTES, MirrorPlace, put_mirror
from .writer import EventRow, insert_events, insert_once, put

OLD_FILE = "server-1.sqlite"
OLD_STREAMS = "streams-1"
AT_ONCE = 2000


def take_over_first_version(folder: Path) -> None:
    """Where *folder* has the files of the first releases, make this release's of them; the old ones stay as a backup.

    Whenever this is killed, the next call finds the old files or the new one.

    Raises:
        UsageError: the old file cannot be read.
    """
    path = folder / SQLITE_FILE
    try:
        if not path.is_file() or not path.stat().st_size or not _is_first_version(path):
            return
        new_folder = folder / "import.new"
        _unlink(new_folder / SQLITE_FILE)
        database = Database.open(None, new_folder)
        try:
            with database.engine.connect() as connection, connection.begin():
                _import_first_version(connection, folder)
        finally:
            database.close()
        with suppress(FileExistsError):
            os.link(path, folder / OLD_FILE)
        os.replace(new_folder / SQLITE_FILE, path)
        new_folder.rmdir()
        with suppress(OSError):
            os.replace(folder / "streams", folder / OLD_STREAMS)
    except (sqlite3.DatabaseError, ParseError, ValueError) as error:
        raise UsageError(
            f"`{path}` is of an earlier release and cannot be read: {error}",
            hint="move it away to begin anew, or use the provision that wrote it",
        ) from None


def _is_first_version(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as old:
        version = int(old.execute("PRAGMA user_version").fetchone()[0])
        if version:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return version == 1


def _unlink(path: Path) -> None:
    for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        name.unlink(missing_ok=True)


_OLD = (
    "run", "created_unix", "request_hash", "instance", "plan", "profile", "labels", "secret_names", "replaces",
    "joined", "stem", "is_stopping", "verdict", "summary",
)  # fmt: skip


def _import_first_version(connection: Connection, folder: Path) -> None:
    home = name_of(folder)
    with closing(sqlite3.connect(folder / SQLITE_FILE)) as old:
        for values in old.execute(f"SELECT {', '.join(_OLD)} FROM runs ORDER BY created_unix"):  # noqa: S608
            found = dict(zip(_OLD, values, strict=True))
            labels, names = json.loads(found["labels"]), json.loads(found["secret_names"])
            row = Row(
                run=found["run"], request_hash=found["request_hash"], created_unix=found["created_unix"],
                instance=parse(Instance, json.loads(found["instance"]), "instance"),
                plan=json.loads(found["plan"]), profile=found["profile"], labels=labels, secret_names=names,
                replaces=bool(found["replaces"]), joined=found["joined"], stem=found["stem"],
                is_stopping=bool(found["is_stopping"]), verdict=found["verdict"],
                state=found["verdict"] or "accepted", home=home,
                ended_unix=found["created_unix"] if found["verdict"] is not None else None,
            )  # fmt: skip
            rid = add_row(connection, row)
            kept = sa.update(schema.runs).where(schema.runs.c.rid == rid)
            connection.execute(kept.values(summary=found["summary"]))
            _import_stream(connection, folder / "streams" / f"{row.run}.jsonl", row.day, rid)
        for key, body, attempts, is_settled in old.execute(
            "SELECT key, body, attempts, is_settled FROM deliveries"
        ):
            told = {"key": key, "run": key.rsplit(":", 2)[0], "body": body, "attempts": attempts}
            insert_once(connection, "deliveries", {**told, "is_settled": bool(is_settled)})


def _import_stream(connection: Connection, path: Path, day: int, rid: int) -> None:
    rows: list[EventRow] = []
    for number, line in enumerate(whole_lines(path), 1):
        rows.append(EventRow(day, rid, number, line))
        if len(rows) >= AT_ONCE:
            insert_events(connection, rows)
            rows = []
    if rows:
        insert_events(connection, rows)


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without a torn last one; none where there is no file."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]
    except FileNotFoundError:
        return


# -- from a server's own file into a database that servers share


def copy_into(target: Database, folder: Path) -> int:
    """Bring the runs that a server has kept in *folder* into *target*; those that are there stay. May take long.

    Returns:
        How many runs came.

    Raises:
        UsageError: the folder's file cannot be read, or a newer release wrote it.
    """
    if not (folder / SQLITE_FILE).is_file():
        raise UsageError(
            f"there is no state of a server in `{folder}`", hint="`--state-dir` says where the server kept it"
        )
    take_over_first_version(folder)
    source = Database.open(None, folder)
    try:
        with source.engine.connect().execution_options(writes=False) as old:
            rows = select_rows(old, sa.select(schema.runs.c.rid))
            came = sum(_copy_run(old, target, row) for row in rows)
            with target.engine.connect() as new, new.begin():
                for found in old.execute(sa.select(schema.deliveries)).mappings():
                    insert_once(new, "deliveries", {**found, "owner": None})
    finally:
        source.close()
    return came


def _copy_run(old: Connection, target: Database, row: Row) -> bool:
    source_rid = row.rid
    row.owner = None
    with target.engine.connect() as new, new.begin():
        rid = add_row(new, row)
        if not rid:
            return False
        row.rid = rid
        events = schema.events
        here = sa.and_(events.c.day == row.day, events.c.rid == source_rid)
        found = old.execute(sa.select(events.c.id, events.c.body).where(here).order_by(events.c.id))
        for part in found.partitions(AT_ONCE):
            insert_events(new, [EventRow(row.day, rid, number, bytes(body)) for number, body in part])
        for table in (schema.snapshots, schema.mirrors):
            for more in old.execute(sa.select(table).where(table.c.rid == source_rid)).mappings():
                put(new, table.name, {**more, "rid": rid})
        if row.stem is not None:
            files = RunFiles(row.stem)
            for name, path in (("core", files.core), ("errors", files.errors)):
                _copy_log(new, row, name, path)
    return True


def _copy_log(new: Connection, row: Row, name: str, path: Path) -> None:
    """The bytes of a log; where the run goes on, its watcher keeps the rest."""
    try:
        with path.open("rb") as file:
            length = 0
            while data := file.read(CHUNK_BYTES):
                length += len(data)
                put_mirror(new, row, MirrorPlace(name, length, "{}"), {length - len(data): data})
    except FileNotFoundError:
        return
