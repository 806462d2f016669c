"""What `provision collect` costs for very many hosts in one process.

    python benchmarks/collect_many.py [--hosts 1000] [--seconds 20]

SSH is real, and so is the collecting process. The hosts are played: one process answers for all of them and writes a
line a second into each log, with the moment of its writing, so this machine need not run a thousand sshd and followers.
A line has come when it stands in the local file. `cores` are those of the collecting process alone. Prints one JSON
object; the exit status is 1 when a mirror is not whole.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import asyncssh
from provision_agent.contract import frames
from provision_collector.collect.collect import CollectOrder, LogToCollect, collect
from provision_collector.collect.sender import follower_program
from provision_collector.instance import Instance
from provision_collector.mirror import Mirror
from serve import make_key, play, wait_for

QUIET_S = 15.0


class Hosts:
    """Very many hosts, each with one log."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds

    async def session(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        with suppress(asyncssh.Error, ConnectionError, asyncio.IncompleteReadError):
            await process.stdin.readexactly(len(follower_program()))
            head = json.loads(await process.stdin.readline())
            writing = asyncio.create_task(self._write(process, head))
            await process.stdin.read()
            writing.cancel()

    async def _write(self, process: asyncssh.SSHServerProcess[bytes], head: dict[str, object]) -> None:
        write, offset, beat_s = process.stdout.write, 0, float(str(head["heartbeat_s"]))

        def tell(number: int) -> None:
            nonlocal offset
            line = b"%d a line of usual length, as scripts write them, number %d\n" % (time.time_ns(), number)
            write(frames.data_head(0, 0, offset, len(line)) + line)
            offset += len(line)

        async def beat() -> None:
            await asyncio.sleep(beat_s * random.random())
            while True:
                write(frames.pack(frames.BEAT, 0, {"sizes": [offset], "unread": [0], "late": [0]}))
                await asyncio.sleep(beat_s)

        write(frames.magic(str(head["nonce"])))
        facts = {"resumed": True, "edited": False, "dev": 1, "ino": 1, "at": 0.0, "unread": 0}
        write(frames.pack(frames.RESUMED, 0, facts))
        tell(0)
        beating = asyncio.create_task(beat())
        try:
            while not (self._folder / "go").exists():
                await asyncio.sleep(1.0)
            begun = time.monotonic() + random.random()
            for number in range(1, int(self._seconds) + 1):
                await asyncio.sleep(max(begun + number - time.monotonic(), 0))
                tell(number)
            await asyncio.Event().wait()
        finally:
            beating.cancel()


def note_arrivals(late_ms: list[float]) -> None:
    """Have each line's age kept when it was written to its mirror."""
    append = Mirror.append

    def noted(self: Mirror, generation: int, offset: int, data: bytes) -> int:
        count = append(self, generation, offset, data)
        late_ms.append((time.time_ns() - int(bytes(data).split(b" ", 1)[0])) / 1e6)
        return count

    Mirror.append = noted  # type: ignore[method-assign]


async def measure(folder: Path, port: int, hosts: int, seconds: float) -> dict[str, object]:
    """Collect from all *hosts*, first while nobody writes."""
    late_ms: list[float] = []
    note_arrivals(late_ms)
    key, leave = str(folder / "key"), asyncio.Event()
    places = [folder / f"host{number}.mirror" for number in range(hosts)]
    begun = time.monotonic()
    work = []
    for number, place in enumerate(places):
        where = Instance(
            "127.0.0.1",
            port=port,
            user=getpass.getuser(),
            key=key,
            instance_id=f"i{number}",
            ssh_config="none",
        )
        order = CollectOrder((LogToCollect("/workspace/run.log", place),))
        work.append(asyncio.create_task(collect(where, order, on_event=lambda _: None, leave=leave)))
    while len(late_ms) < hosts:
        await asyncio.sleep(0.1)
    connect_s = time.monotonic() - begun
    await asyncio.sleep(5)
    quiet = await cores(QUIET_S)
    late_ms.clear()
    (folder / "go").touch()
    await asyncio.sleep(3)
    busy = await cores(seconds - 6)
    end = time.monotonic() + 60
    while len(late_ms) < hosts * int(seconds) and time.monotonic() < end:
        await asyncio.sleep(0.2)
    leave.set()
    await asyncio.gather(*work)
    cuts = statistics.quantiles(late_ms, n=100)
    wanted = list(range(int(seconds) + 1))
    whole = sum(
        [int(line.rsplit(b" ", 1)[1]) for line in place.read_bytes().splitlines()] == wanted
        for place in places
    )
    return {
        "hosts": hosts,
        "all_connected_after_s": round(connect_s, 1),
        "cores_while_nobody_writes": round(quiet, 3),
        "cores_at_a_line_a_second": round(busy, 3),
        "latency_ms": {"p50": round(statistics.median(late_ms), 1), "p99": round(cuts[98], 1)},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "whole": whole,
    }  # fmt: skip


async def cores(seconds: float) -> float:
    """How much of a processor this process takes in the next *seconds*."""
    used, at = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    return (time.process_time() - used) / (time.monotonic() - at)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--played", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if words.played is not None:
        asyncio.run(play(words.played, Hosts(words.played, words.seconds).session))
        return 0
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        make_key(folder)
        own = [sys.executable, __file__, "--played", name, "--seconds", str(words.seconds)]
        played = subprocess.Popen(own)
        try:
            port = int(wait_for(folder / "port"))
            result = asyncio.run(measure(folder, port, words.hosts, words.seconds))
        finally:
            played.terminate()
            played.wait(20)
    print(json.dumps({**result, "load_before": round(load, 1), "cpus": os.cpu_count()}, indent=1))
    return int(result["whole"] != words.hosts)


if __name__ == "__main__":
    sys.exit(main())
