"""Instances that are played, for a drill: one SSH server, and every login is a machine of its own.

A login says how its machine will be: ``good-0007``, ``stuck-0012``, ``frozen-0030``, ``lemon-0041``. SSH is real, and so is what the agent
writes; it is only that nothing is fetched or started. A *stuck* one begins and never tells anything again, a *frozen* one falls silent as
a whole, and a *lemon* is found out by `require` of its profile.

    python played.py FOLDER --median 6     # makes FOLDER/key and FOLDER/port, and serves until it is killed
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import asyncssh
from provision_agent.contract import frames, version

Process = asyncssh.SSHServerProcess[bytes]
MODEL = "models/model.safetensors"
MODEL_BYTES = 6_900_000_000
FILES = ("core", "errors", "events")
BEAT_EVERY_S = 2.0
SPREAD = 0.35
"""Of the times to usable: the deviation of their logarithm."""
COMPLETE_AFTER = 1.3
"""So many times the time to usable."""


class Machine:
    """One instance and the run on it: what its agent has written, and how it goes on."""

    def __init__(self, name: str, run: str, median_s: float) -> None:
        self.kind = name.partition("-")[0]
        self.events = bytearray()
        self.changed = asyncio.Event()
        self._run = run
        self._seq = 0
        rng = random.Random(name)  # noqa: S311 -- a drill, no secret
        self._usable_s = median_s * rng.lognormvariate(0, SPREAD)
        self._story = asyncio.create_task(self._tell())

    @property
    def is_frozen(self) -> bool:
        """It answers nothing more, whoever asks."""
        return self.kind == "frozen" and self._seq >= 3

    def _write(self, event: str, **fields: object) -> None:
        self._seq += 1
        ts = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {
            "format": version.FORMAT,
            "ts": ts,
            "run": self._run,
            "seq": self._seq,
            "event": event,
            **fields,
        }
        self.events += json.dumps(told).encode() + b"\n"
        self.changed.set()
        self.changed = asyncio.Event()

    async def _tell(self) -> None:
        card = {"name": "NVIDIA GeForce RTX 4090", "memory_bytes": 24564 << 20}
        self._write("run_started", plan_hash="", name="drill", deadline_s=3600, resumed=False)
        self._write("facts_found", facts={"gpus": [card]})
        item = {"item": MODEL, "level": "critical"}
        if self.kind == "lemon":
            await self._be_refused()
            return
        self._write(
            "download_started",
            **item,
            total_bytes=MODEL_BYTES,
            url="https://models.example.org/model.safetensors",
        )
        if self.kind in ("stuck", "frozen"):
            return
        steps = 4
        for step in range(1, steps + 1):
            await asyncio.sleep(self._usable_s / steps)
            done = MODEL_BYTES * step // steps
            rate = MODEL_BYTES / self._usable_s
            self._write("download_progress", **item, bytes=done, total_bytes=MODEL_BYTES, bytes_per_s=rate)
        self._write("download_finished", **item, bytes=MODEL_BYTES, duration_s=self._usable_s)
        self._write("run_usable", after_s=self._usable_s)
        await asyncio.sleep(self._usable_s * (COMPLETE_AFTER - 1))
        self._end("complete", self._usable_s * COMPLETE_AFTER, bytes_downloaded=MODEL_BYTES)

    async def _be_refused(self) -> None:
        """What an agent does whose instance is slower than `require` asks for."""
        await asyncio.sleep(1.0)
        self._write(
            "instance_measured", line_bytes_per_s=900_000, line_host="models.example.org", duration_s=1.0
        )
        why = "the line brings 0.9 MB/s from models.example.org; 25 MB/s are required"
        failed = {
            "class": "unfit",
            "message": why,
            "hint": "take another instance, or ask for less",
            "retriable": False,
        }
        self._write("preflight_failed", item="require.line", level="critical", **failed)
        self._end("failed", 1.0)

    def _end(self, verdict: str, duration_s: float, **fields: object) -> None:
        self._write(
            "run_finished", verdict=verdict, duration_s=duration_s, sizes={"core": 0, "errors": 0}, **fields
        )


class Machines:
    """All of them."""

    def __init__(self, median_s: float) -> None:
        self._median_s = median_s
        self._known: dict[str, Machine] = {}

    async def session(self, process: Process) -> None:
        """One command over SSH, as `provision` sends it."""
        name = process.get_extra_info("username")
        machine = self._known.get(name)
        try:
            if machine is not None and machine.is_frozen:
                await process.stdin.read()  # whoever asks waits until they lose patience
                return
            head = json.loads(await process.stdin.readline())
            await (
                self._follow(process, head, name) if "nonce" in head else self._answer(process, head, name)
            )
        except (asyncssh.Error, ConnectionError):
            pass  # the other side went away

    async def _answer(self, process: Process, head: dict[str, list[str]], name: str) -> None:
        """`start` and `stop`: the agent is there already."""
        hello = {"have": True, "python": "python3", "path": "/agent.pyz"}
        process.stdout.write(b"\n\x02provision-agent " + json.dumps(hello).encode() + b"\n")
        order = json.loads(await process.stdin.read())
        told: dict[str, object] = {"format": version.FORMAT}
        if head["arguments"] == ["start"]:
            run = order["run"]
            self._known[name] = Machine(name, run, self._median_s)
            files = {file: f"/{run}/{file}.log" for file in FILES}
            told |= {"state": "started", "run": run, "workspace": f"/{run}", "files": files}
            told |= {"started_unix": order["started_unix"], "remaining_s": 3600.0}
        process.stdout.write(b"\n\x02provision-answer " + json.dumps(told).encode() + b"\n")
        await process.stdout.drain()
        process.exit(0)

    async def _follow(self, process: Process, head: dict[str, object], name: str) -> None:
        """The events file as frames, from where the other side has it; a beat every two seconds."""
        machine, wanted = self._known[name], head["files"]
        assert isinstance(wanted, list)
        number = next(at for at, file in enumerate(wanted) if file["path"].endswith("/events.log"))
        offset = int(wanted[number]["offset"])
        write = process.stdout.write
        write(frames.magic(str(head["nonce"])))
        write(
            frames.pack(
                frames.STATUS, 0, {"run": str(head["workspace"]).strip("/"), "keeper": True, "agent": True}
            )
        )
        gone = asyncio.ensure_future(process.stdin.read())
        async for _ in _turns(machine, gone):
            if machine.is_frozen and offset:
                await gone
                break
            while new := bytes(machine.events[offset : offset + 65536]):
                write(frames.data_head(number, 0, offset, len(new)) + new)
                offset += len(new)
            sizes = [offset if at == number else 0 for at in range(len(wanted))]
            zeros = [0] * len(wanted)
            write(frames.pack(frames.BEAT, 0, {"sizes": sizes, "unread": zeros, "late": zeros}))
        process.exit(0)


async def _turns(machine: Machine, gone: asyncio.Future[bytes]) -> AsyncIterator[None]:
    """Now, whenever *machine* wrote something, and at least every two seconds, until *gone*."""
    while not gone.done():
        changed = asyncio.ensure_future(machine.changed.wait())
        yield
        await asyncio.wait((changed, gone), timeout=BEAT_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()


async def serve(folder: Path, median_s: float) -> None:
    """Play until killed; ``key`` opens every instance, and ``port`` says where they are."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(folder / "key"))
    key.write_public_key(str(folder / "key.pub"))
    (folder / "key").chmod(0o600)
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        authorized_client_keys=str(folder / "key.pub"), process_factory=Machines(median_s).session, encoding=None,
    )  # fmt: skip
    (folder / "port.new").write_text(str(server.get_port()))
    (folder / "port.new").replace(folder / "port")
    await asyncio.Event().wait()


def main() -> None:
    """Read the words, and play."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--median", type=float, default=6.0, help="the median time to usable, in seconds")
    words = parser.parse_args()
    asyncio.run(serve(words.folder, words.median))


if __name__ == "__main__":
    main()
