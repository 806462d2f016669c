"""Runs of strangers beside an honest one in one server: each ends by its own fault, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from harness.hostile import FINISHED, HostileInstance, event_line
from provision_agent.contract import frames

from .server import Server

PROFILE = "version: 1\nname: x\nlimits: {run: 5m}\nfiles: [{path: a.txt, content: a}]\n"
FLOOD = 4000


class Turner(HostileInstance):
    """Its log begins anew without end, with one byte each time."""

    async def _follow(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        request = json.loads(await process.stdin.readline())
        process.stdout.write(frames.magic(request["nonce"]))
        generation = request["files"][0]["generation"]
        while not process.channel.is_closing():
            for _ in range(50):
                generation += 1
                begins = {"generation": generation, "dev": 1, "ino": generation, "at": 1.0, "lost_bytes": 0}
                process.stdout.write(frames.pack(frames.GENERATION, 0, begins))
                process.stdout.write(frames.data_head(0, generation, 0, 1) + b"x")
            await process.stdout.drain()
            await asyncio.sleep(0.01)  # the other instances of the test share its event loop


def failed(number: int) -> bytes:
    """An item that no plan has."""
    facts = {"level": "required", "message": "m", "hint": "h", "retriable": False, "class": "c", "url": "u"}
    return event_line(number, "download_failed", item=f"item-{number}", **facts)


STRANGERS: dict[str, Any] = {
    "turner": (Turner, b""),
    "babbler": (HostileInstance, b"".join(map(failed, range(1, FLOOD)))),
    "liar": (HostileInstance, event_line(1, "download_progress", item="a", bytes="lots", total_bytes={})),
    "noise": (HostileInstance, b"\x00\xff" * 4000 + b"\n" + b"[" * 5000 + b"\n"),
}
SAID = {
    "turner": "the instance says what cannot be understood: a log that began anew more than 500 times within moments",
    "liar": "the instance wrote an event that no agent writes: ",
    "babbler": "the instance wrote an event that no agent writes: ",
}


def body_of(instance: HostileInstance, run: str) -> dict[str, Any]:
    return {
        "host": "root@127.0.0.1",
        "port": instance.port,
        "key": str(instance.key_path),
        "boot_grace": "5s",
        "contact_timeout": "5s",
        "profile_yaml": PROFILE,
        "run_id": run,
    }


def assert_served(server: Server) -> None:
    for path in (
        "/healthz",
        "/api/runs",
        "/metrics",
        "/api/hosts",
        *(f"/api/runs/{run}" for run in STRANGERS),
    ):
        assert server.ask("GET", path)[0] == 200, path


@pytest.mark.timeout(240)
async def test_runs_of_strangers_end_by_their_own_fault_beside_an_honest_one(
    server: Server, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        for name, (kind, events) in STRANGERS.items():
            stranger = await stack.enter_async_context(kind(tmp_path / name, events=events))
            await asyncio.to_thread(server.post, "/api/runs", body_of(stranger, name))
        honest = await stack.enter_async_context(HostileInstance(tmp_path / "honest", events=FINISHED))
        await asyncio.to_thread(server.post, "/api/runs", body_of(honest, "honest"))

        outcome = await asyncio.to_thread(server.outcome, "honest", 60)
        assert outcome["verdict"] == "complete"
        for run, said in SAID.items():
            outcome = await asyncio.to_thread(server.outcome, run, 90)
            assert (run, outcome["verdict"]) == (run, "agent-lost")
            assert outcome["errors"][-1]["class"] == "protocol"
            assert said in outcome["errors"][-1]["message"]
        await asyncio.to_thread(assert_served, server)

        await asyncio.to_thread(server.kill)
        left = (b"\x00\xff", b'{"half": ', b"[" * 100_000, b"5")  # by an earlier release or a bad disk
        for number, run in enumerate((*STRANGERS, "honest")):
            await asyncio.to_thread(server.keep, run, left[number % 4])
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(assert_served, server)
        assert (await asyncio.to_thread(server.get, "/api/runs/honest"))["verdict"] == "complete"
        again = await stack.enter_async_context(HostileInstance(tmp_path / "again", events=FINISHED))
        await asyncio.to_thread(server.post, "/api/runs", body_of(again, "again"))
        assert (await asyncio.to_thread(server.outcome, "again", 60))["verdict"] == "complete"
        assert "Traceback" not in server.stderr.read_text()
