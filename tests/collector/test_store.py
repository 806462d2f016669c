"""The server's database: what was answered for is in it, a full disk is waited for, and old runs are let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from provision_collector.errors import LocalMachineError, UsageError
from provision_collector.instance import Instance
from provision_collector.pool.store import store as module
from provision_collector.pool.store.rows import Row
from provision_collector.pool.store.store import Store

AMPLE = 1 << 20


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path)
    yield store
    await store.close()


def row(run: str, **more: Any) -> Row:
    facts = {
        "request_hash": "",
        "instance": Instance("h"),
        "plan": {"name": "x"},
        "profile": "x",
        "labels": {},
    }
    return Row(run=run, **{**facts, "secret_names": ["A"], **more})


async def limit_pages(store: Store, count: int) -> None:
    """Let the database grow to so many pages; it never falls below what it has."""
    await store._database.execute_fetchall(f"PRAGMA max_page_count = {count}")


async def test_a_full_disk_refuses_new_runs_and_keeps_the_others_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    known = row("known")
    await store.add(known)
    await limit_pages(store, 1)
    with pytest.raises(LocalMachineError):
        await store.add(row("new", plan={"name": "x" * 100_000}))
    change = asyncio.create_task(store.update(known, labels={"text": "x" * 100_000}))
    assert not (await asyncio.wait({change}, timeout=0.2))[0]

    await limit_pages(store, AMPLE)
    async with asyncio.timeout(5):
        await change
    found = await store.find("known")
    assert found == known
    assert await store.find("new") is None


async def test_a_delivery_is_owed_once_and_until_it_is_settled(store: Store) -> None:
    assert await store.owe("run:finished:0", "{}")
    assert not await store.owe("run:finished:0", "{}")
    assert await store.owed() == [("run:finished:0", "{}")]
    await store.settle("run:finished:0", attempts=1)
    assert await store.owed() == []
    assert not await store.owe("run:finished:0", "{}"), "what was told stays told"


async def test_only_the_newest_finished_runs_are_kept_and_every_unfinished_one(store: Store) -> None:
    for number in range(6):
        verdict = "complete" if number % 2 else None
        await store.add(row(f"run{number}", created_unix=float(number), verdict=verdict))

    assert await store.forget(keep=2) == ["run1"]
    assert [found.run for found in await store.finished(verdict=None, limit=10)] == ["run5", "run3"]
    assert [found.run for found in await store.unfinished()] == ["run0", "run2", "run4"]


async def test_a_folder_that_another_server_uses_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another `provision serve`"):
        await Store.open(tmp_path)
