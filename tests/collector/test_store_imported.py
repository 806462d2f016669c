"""State of the first releases and of a server's own file comes into today's tables, whole and once."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from harness.postgres import Postgres
from provision_collector.errors import UsageError
from provision_collector.pool.store.database import Database
from provision_collector.pool.store.imported import copy_into
from provision_collector.pool.store.store import Store, Wanted
from provision_collector.run.registry import RunFiles

FIRST = """
CREATE TABLE runs (
    run TEXT PRIMARY KEY, created_unix REAL NOT NULL, request_hash TEXT NOT NULL, instance TEXT NOT NULL,
    plan TEXT NOT NULL, profile TEXT NOT NULL, labels TEXT NOT NULL, secret_names TEXT NOT NULL,
    replaces INTEGER NOT NULL, joined TEXT, stem TEXT, is_stopping INTEGER NOT NULL DEFAULT 0,
    verdict TEXT, summary TEXT
);
CREATE TABLE deliveries (
    key TEXT PRIMARY KEY, body TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, is_settled INTEGER NOT NULL DEFAULT 0
);
PRAGMA user_version = 1;
"""
"""The tables as the first releases made them."""
LINES = [json.dumps({"n": number}).encode() for number in range(1, 2501)]


def first_release(folder: Path) -> None:
    """What a server of the first releases leaves when it is killed."""
    folder.mkdir(exist_ok=True)
    database = sqlite3.connect(folder / "server.sqlite")
    database.executescript("PRAGMA journal_mode = WAL;" + FIRST)
    for run, verdict, summary in (("old", "complete", '{"bytes": "many"}'), ("going", None, None)):
        values = (
            run,
            5.5,
            "hash",
            '{"host": "h", "port": 7}',
            '{"name": "x"}',
            "x",
            '{"pool": "a"}',
            '["A"]',
        )
        stem = str(folder / "logs" / run)
        database.execute(
            "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, NULL, ?, 0, ?, ?)",
            (*values, stem, verdict, summary),
        )
    database.execute(
        "INSERT INTO deliveries VALUES ('old:finished:0', '{}', 3, 0), ('old:usable:0', '{}', 1, 1)"
    )
    database.commit()
    (folder / "streams").mkdir()
    (folder / "streams" / "old.jsonl").write_bytes(b"\n".join(LINES) + b"\n{'torn")
    database.close()


async def test_the_files_of_the_first_releases_are_taken_over_and_left_as_a_backup(tmp_path: Path) -> None:
    first_release(tmp_path)
    for _ in range(2):  # the second start finds the tables of today
        store = await Store.open(tmp_path)
        await store.leases.join(b"", takes_runs=True)
        old, going = await store.find("old"), await store.find("going")
        assert old is not None
        assert going is not None
        assert [body for _, body in await store.streams.all_of(old)] == LINES
        assert await store.streams.all_of(going) == []
        assert (old.verdict, old.state, old.summary, going.state) == (
            "complete",
            "complete",
            None,
            "accepted",
        )
        assert (old.labels, old.secret_names, old.instance.port, old.created_unix) == (
            {"pool": "a"},
            ["A"],
            7,
            5.5,
        )
        assert old.home == store.leases.home
        assert [found.run for found in await store.listed(Wanted(labels={"pool": "a"}))] == ["going", "old"]
        assert await store.leases.claim(10) == [going.rid]
        assert await store.owed() == [("old:finished:0", "{}")]
        await store.close()
    assert (tmp_path / "server-1.sqlite").is_file()
    assert (tmp_path / "streams-1" / "old.jsonl").is_file()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "server.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(UsageError, match=r"cannot be read"):
        await Store.open(tmp_path)
    assert (tmp_path / "server.sqlite").read_bytes() == b"no database" * 1000


def test_a_servers_own_file_comes_into_the_shared_database_once(tmp_path: Path, postgres: Postgres) -> None:
    first_release(tmp_path)
    files = RunFiles(str(tmp_path / "logs" / "old"))
    files.core.parent.mkdir()
    files.core.write_bytes(b"log" * 50_000)
    address = postgres.database()
    target = Database.open(address, tmp_path)
    assert copy_into(target, tmp_path) == 2
    assert copy_into(target, tmp_path) == 0
    target.close()
    count = postgres.sql("SELECT count(*), sum(length(body)) FROM events", address)
    assert count == f"{len(LINES)}|{sum(map(len, LINES))}"
    log = "SELECT sum(length(data)), (SELECT length FROM mirrors WHERE file = 'core') FROM chunks"
    assert postgres.sql(log, address) == "150000|150000"
    assert (
        postgres.sql("SELECT string_agg(key, ',' ORDER BY key) FROM deliveries", address)
        == "old:finished:0,old:usable:0"
    )
    with pytest.raises(UsageError, match="no state of a server"):
        copy_into(target, tmp_path / "logs")
