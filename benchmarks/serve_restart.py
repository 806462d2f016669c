"""How soon `provision serve` is back: started over many runs that have told many events, until each of them tells more.

The state is written as a server leaves it that was killed: its database, its mirrors, its records. The instances are
played in one process; SSH is real. Prints one JSON object; the exit status is 1 when a run did not go on without a gap.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncssh
from provision_agent.contract import version
from serve import (
    PROFILE,
    PROVISION,
    TOKEN,
    Client,
    Played,
    answer_with,
    cpu_s,
    make_key,
    peak_mb,
    play,
    request_of,
    wait_for,
)

STARTED = 1_700_000_000
TS = "2026-01-01T00:00:00.000Z"
TAIL = 150
"""So many events were told since the fold was kept last."""


def lines_of(run: str, count: int) -> list[bytes]:
    """The events that the agent of *run* has written."""

    def line(seq: int, kind: str, **fields: Any) -> bytes:
        told = {"format": version.FORMAT, "ts": TS, "run": run, "seq": seq, "event": kind, **fields}
        return json.dumps(told, separators=(",", ":")).encode()

    found = [line(1, "run_started", plan_hash="", name="load", deadline_s=3600, resumed=False)]
    for seq in range(2, count + 1):
        item = f"models/file{seq % 40}.safetensors"
        facts = {"bytes": seq * 1000, "total_bytes": 10**9, "bytes_per_s": 5000.0}
        found.append(line(seq, "download_progress", item=item, level="required", **facts))
    return found


class Puppet:
    """Many instances: each has a run that told *count* events, and tells one a second from now on."""

    def __init__(self, plan: dict[str, Any], count: int) -> None:
        self._plan = plan
        self._count = count
        self._told = b"\n".join(lines_of("RUN", count)) + b"\n"
        self._runs: dict[str, Played] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def _played(self, run: str) -> Played:
        if run not in self._runs:
            self._runs[run] = played = Played()
            played.data += self._told.replace(b"RUN", run.encode())
            task = asyncio.create_task(self._tell(run, played))
            self._telling.add(task)
        return self._runs[run]

    async def _tell(self, run: str, played: Played) -> None:
        seq = self._count
        while True:
            seq += 1
            item = f"models/file{seq % 40}.safetensors"
            facts = {"bytes": seq * 1000, "total_bytes": 10**9, "bytes_per_s": 5000.0}
            played.event(run, seq, "download_progress", item=item, level="required", **facts)
            await asyncio.sleep(1.0)

    async def session(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            head = json.loads(await process.stdin.readline())
            await (self._follow(process, head) if "nonce" in head else self._status(process))
        except (asyncssh.Error, ConnectionError):
            pass

    async def _status(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        run = (await request_of(process))["run"]
        found = {
            "run": run, "workspace": f"/{run}", "started_unix": STARTED, "remaining_s": 3600.0,
            "files": {name: f"/{run}/{name}.log" for name in ("core", "errors", "events")},
            "is_current": True, "is_alive": True, "keeper": True, "agent": True, "verdict": None, "plan": self._plan,
            "started": TS, "state": "running", "status": None,
        }  # fmt: skip
        await answer_with(process, {"format": version.FORMAT, "runs": [found]})

    async def _follow(self, process: asyncssh.SSHServerProcess[bytes], head: dict[str, Any]) -> None:
        await self._played(head["workspace"].strip("/")).follow(process, head)


async def write_state(folder: Path, plan: dict[str, Any], port: int, runs: int, count: int) -> None:
    """What a server leaves that was killed while *runs* runs had told *count* events each."""
    from provision_collector import Instance
    from provision_collector.pool.server.kept import event_of, snapshot_of
    from provision_collector.pool.server.view import View
    from provision_collector.pool.store.rows import Row
    from provision_collector.pool.store.store import Store
    from provision_collector.pool.store.streams import Snapshot, put_snapshot
    from provision_collector.pool.store.writer import EventRow
    from provision_collector.run import registry
    from provision_collector.run.registry import RunFiles, RunRecord
    from provision_collector.run.spec import ReadSoFar

    own = [
        json.dumps(
            {"format": 2, "ts": TS, "run": "RUN", "seq": seq, "event": event, "from": "collector", **more}
        )
        for seq, event, more in ((1, "run_accepted", {"host": "h", "labels": {}}), (2, "connected", {}))
    ]
    agents = lines_of("RUN", count)
    stream = [own[0].encode(), own[1].encode(), *agents]
    view = View("RUN")
    for line in stream[:-TAIL]:
        view.tell(event_of(line))
    read_to = sum(len(line) + 1 for line in agents[:-TAIL])
    kept = snapshot_of(view, ReadSoFar(read_to, view.run_state.to_json()))
    store = await Store.open(folder / "state" / "provision" / "server")
    await store.leases.join(b"", takes_runs=True)
    logs = folder / "logs"
    logs.mkdir()
    for number in range(runs):
        run = f"load{number:04d}"
        instance = Instance(
            "127.0.0.1", port=port, user=getpass.getuser(), key=str(folder / "key"), instance_id=f"i{number}"
        )
        files = RunFiles.of(logs, run, STARTED)
        row = Row(
            run=run, request_hash="x", instance=instance, plan=plan, profile="load", labels={},
            secret_names=[], joined=run, stem=files.stem, home=store.leases.home, state="running",
            owner=store.leases.me,
        )  # fmt: skip
        assert await store.add(row)
        name = run.encode()
        rows = [
            EventRow(row.day, row.rid, at, line.replace(b"RUN", name)) for at, line in enumerate(stream, 1)
        ]
        mine = Snapshot(kept.last_id, kept.view.replace("RUN", run), kept.watched)
        await store.streams.append(rows, lambda line, row=row, mine=mine: put_snapshot(line, row.rid, mine))
        files.events.write_bytes(b"".join(line.replace(b"RUN", name) + b"\n" for line in agents))
        files.core.touch()
        files.errors.touch()
        positions = {name: {"generation": 0} for name in ("core", "errors", "events")}
        files.state.write_text(json.dumps({"format": 2, "files": positions, "gaps": []}))
        record = RunRecord(run, files.stem, STARTED, registry.record_of(instance), f"/{run}", "load")
        registry.remember(record)
    await store.close()


async def follow(port: int, run: str, after: int) -> bool:
    """Wait for the next event of the agent; whether it is the one that was due."""
    client = Client(port, run)
    reader, writer = await client.open(after=after)
    try:
        while line := await reader.readline():
            if line.startswith(b"id: "):
                client.ids.append(int(line[4:]))
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event.get("from") != "collector":
                    return event["seq"] == after - 1 and client.ids == list(
                        range(after + 1, after + 1 + len(client.ids))
                    )
    finally:
        writer.close()
    return False


async def measure(port: int, runs: int, count: int) -> bool:
    wanted = (follow(port, f"load{number:04d}", count + 2) for number in range(runs))
    async with asyncio.timeout(300):
        return all(await asyncio.gather(*wanted))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument(
        "--under", nargs="*", default=[], help="a program that starts the server, such as a profiler"
    )
    parser.add_argument("--puppet", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.puppet is not None:
        plan = json.loads((words.puppet / "plan.json").read_text())
        asyncio.run(play(words.puppet, Puppet(plan, words.events).session))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        make_key(folder)
        from provision_collector import Profile
        from provision_collector.profile import compile_plan

        plan = compile_plan(Profile.from_text(PROFILE, name="load.yaml")).to_json()
        (folder / "plan.json").write_text(json.dumps(plan))
        instances = subprocess.Popen(
            [sys.executable, __file__, "--puppet", name, "--events", str(words.events)]
        )
        server = None
        try:
            port = int(wait_for(folder / "port"))
            asyncio.run(write_state(folder, plan, port, words.runs, words.events))
            load = os.getloadavg()[0]
            begun = time.monotonic()
            with (folder / "out").open("wb") as out:
                server = subprocess.Popen(
                    [*words.under, PROVISION, "serve", "--listen", "127.0.0.1:0", "--json", "--keys", name],
                    cwd=name,
                    env={**os.environ, "PROVISION_TOKEN": TOKEN},
                    stdout=out,
                )
            said = json.loads(wait_for(folder / "out"))
            answers_s, answers_cpu_s = time.monotonic() - begun, cpu_s(server.pid)
            is_whole = asyncio.run(measure(int(said["url"].rpartition(":")[2]), words.runs, words.events))
            tells_s = time.monotonic() - begun
            result = {
                "runs": words.runs,
                "events_each": words.events,
                "answers_after_s": round(answers_s, 2),
                "answers_cpu_s": answers_cpu_s,
                "all_tell_after_s": round(tells_s, 2),
                "all_tell_cpu_s": cpu_s(server.pid),
                "server_peak_memory_mb": peak_mb(server.pid),
                "is_whole": is_whole,
                "load_before": round(load, 1),
                "cpus": os.cpu_count(),
            }
        finally:
            for child in (server, instances):
                if child is not None:
                    child.send_signal(signal.SIGTERM)
                    child.wait(30)
    print(json.dumps(result, indent=1))
    return int(not result["is_whole"])


if __name__ == "__main__":
    sys.exit(main())
