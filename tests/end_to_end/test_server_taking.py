"""A run is watched once, however what begins its watch falls together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from provision_collector.pool.store.rows import Row

from .server import served_here
from .test_up import free_port

pytestmark = pytest.mark.usefixtures("own_state")


async def test_a_run_that_is_accepted_while_its_row_is_read_to_be_taken_up_is_watched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_here(tmp_path) as (pool, client):
        is_read, may_go_on, read = asyncio.Event(), asyncio.Event(), pool.store.of_numbers

        async def slowly(rids: Sequence[int]) -> list[Row]:
            is_read.set()
            await may_go_on.wait()
            return list(await read(rids))

        monkeypatch.setattr(pool.store, "of_numbers", slowly)
        taking = asyncio.create_task(pool._take([1]))
        await is_read.wait()
        order = {"host": "127.0.0.1", "port": free_port(), "profile": "comfyui-base", "boot_grace": "5m"}
        assert (await client.post("/api/runs", json={**order, "run_id": "one"})).status_code == 202
        watch = pool.going("one")
        assert watch is not None and watch.row.rid == 1
        may_go_on.set()
        await taking

        assert pool.going("one") is watch
