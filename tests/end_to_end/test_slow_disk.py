"""A disk that takes its time: nothing that waits for it holds up the event loop, where every other run lives."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from harness.file_server import FileServer
from provision_agent.contract.status_parts import ItemState
from provision_collector import Profile, start
from provision_collector.collect.collect import CollectOrder, LogToCollect, collect
from provision_collector.collect.markers import Markers
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import instance_of
from .server import served_here
from .test_up import free_port, profile_of

pytestmark = [pytest.mark.usefixtures("own_state"), pytest.mark.timeout(240)]

SYNC_S = 0.2
TICK_S = 0.005
LONGEST_S = 0.05


class SlowDisk:
    """Every fsync takes `SYNC_S`; `waits` counts them, `on_loop` those for which this thread waited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits = 0
        self.on_loop: list[str] = []
        self._loop_thread = threading.get_ident()
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._slow(name))
        lock = fcntl.flock

        def watched(descriptor: int, flags: int) -> None:
            if not flags & fcntl.LOCK_NB:
                self._note("flock")
            lock(descriptor, flags)

        monkeypatch.setattr(fcntl, "flock", watched)

    def _slow(self, name: str):  # type: ignore[no-untyped-def]
        real = getattr(os, name)

        def slow(descriptor: int) -> None:
            self._note(name)
            time.sleep(SYNC_S)
            real(descriptor)

        return slow

    def _note(self, name: str) -> None:
        self.waits += 1
        if threading.get_ident() == self._loop_thread:
            self.on_loop.append(name)


async def longest_tick_s(until: asyncio.Event) -> float:
    """The longest time for which this loop could not run a task that was due."""
    longest_s = 0.0
    while not until.is_set():
        due = time.monotonic() + TICK_S
        await asyncio.sleep(TICK_S)
        longest_s = max(longest_s, time.monotonic() - due)
    return longest_s


@asynccontextmanager
async def prompt_loop() -> AsyncIterator[None]:
    """Asserts that this loop's longest hold-up was short, or no longer than that of a loop with no work beside it."""
    loop_ended, idle_ended = asyncio.Event(), threading.Event()
    idle: list[float] = []

    def control() -> None:
        async def tick() -> None:
            ended = asyncio.Event()
            ticking = asyncio.create_task(longest_tick_s(ended))
            while not idle_ended.is_set():
                await asyncio.sleep(TICK_S)
            ended.set()
            idle.append(await ticking)

        asyncio.run(tick())

    thread = threading.Thread(target=control)
    thread.start()
    ticking = asyncio.create_task(longest_tick_s(loop_ended))
    try:
        yield
    finally:
        loop_ended.set()
        idle_ended.set()
        await asyncio.to_thread(thread.join)
    longest_s = await ticking
    print(f"longest hold-up {longest_s * 1000:.0f} ms, of a loop without work {idle[0] * 1000:.0f} ms")
    assert longest_s < max(LONGEST_S, 2 * idle[0]), f"{longest_s:.3f} s; a loop without work {idle[0]:.3f} s"


async def test_a_run_is_watched_and_its_mirrors_sealed_beside_a_loop_that_stays_prompt(
    instance: EmbeddedInstance, files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = Profile.from_text(profile_of(files), name="test.yaml")
    disk = SlowDisk(monkeypatch)
    async with (
        prompt_loop(),
        await start(
            instance_of(instance, tmp_path),
            profile,
            workspace=str(instance.workspace),
            logs_dir=tmp_path / "logs",
        ) as run,
    ):
        outcome = await run.outcome()

    assert outcome["verdict"] == "complete", outcome
    assert disk.waits >= 3, "the mirrors and the record of the run were made to last"
    assert disk.on_loop == []


async def test_a_log_that_is_rotated_is_collected_beside_a_loop_that_stays_prompt(
    instance: EmbeddedInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = instance.home / "setup.log"
    log.write_bytes(b"line of a long log\n" * 500_000)
    order = CollectOrder(
        (LogToCollect(str(log), tmp_path / "setup.log"),), Markers.of(["ALL DONE"], []), timeout_s=60.0
    )
    seen = asyncio.Event()
    rotations = 0

    async def rotate() -> None:
        nonlocal rotations
        for number in range(5):
            await asyncio.sleep(0.3)
            log.rename(log.with_name(f"setup.log.{5 - number}"))
            log.write_bytes(b"after a rotation\n")
            rotations += 1
        await asyncio.sleep(0.3)
        with log.open("ab") as file:
            file.write(b"ALL DONE\n")

    disk = SlowDisk(monkeypatch)
    async with prompt_loop():
        writing = asyncio.create_task(rotate())
        outcome = await collect(instance_of(instance, tmp_path), order, on_event=lambda _: seen.set())
        await writing

    assert (outcome["verdict"], outcome["gaps"]) == ("complete", []), outcome
    assert disk.waits >= 2 * rotations
    assert disk.on_loop == []


async def test_the_files_of_every_run_are_added_up_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, files = 3, 1000
    disk = SlowDisk(monkeypatch)
    readers: set[int] = set()

    class Watched(ItemState):
        """Notes which threads read it."""

        def number(self, name: str) -> float:
            readers.add(threading.get_ident())
            return super().number(name)

        def to_json(self) -> dict[str, object]:
            readers.add(threading.get_ident())
            return super().to_json()

    async with served_here(tmp_path) as (pool, client):
        for number in range(runs):
            order = {"host": "127.0.0.1", "port": free_port(), "profile": "comfyui-base", "boot_grace": "5m"}
            assert (await client.post("/api/runs", json={**order, "run_id": f"r{number}"})).status_code == 202
            told = pool.going(f"r{number}").view.run_state
            for key in map(str, range(files)):
                told.items["downloads"][key] = item = Watched(key, key)
                item.state = "done" if int(key) % 2 else "running"
                item.facts = {"bytes": 10, "total_bytes": 30, "bytes_per_s": 1.5}
        listed, one, metrics = await asyncio.gather(
            client.get("/api/runs"), client.get("/api/runs/r0"), client.get("/metrics")
        )

    for found in listed.json()["runs"]:
        assert found["files"] == {"settled": files // 2, "all": files}
        assert (found["bytes"], found["bytes_left"]) == (10 * files, 10 * files)
        assert found["bytes_per_s"] == 1.5 * files / 2
    assert len(listed.json()["runs"]) == runs
    assert len(one.json()["downloads"]) == files
    assert f"provision_download_bytes_per_second {1.5 * runs * files / 2}" in metrics.text
    assert readers and threading.get_ident() not in readers
    assert disk.on_loop == []
