"""How three `provision serve` on one PostgreSQL database bear the loss of one: killed in the middle of a thousand runs.

    python benchmarks/serve_many.py [--runs 1000] [--clients 150] [--seconds 60] [--rate 1]

The servers are real processes, the database is the distribution's own with fsync on, and SSH is real. The instances are
one process that plays the agent's side and tells *rate* events a second for each run. Clients follow over all three
servers, and go to the next one when theirs breaks. In the middle one server is killed with SIGKILL; its lease is the real
one. All of it shares this machine's processors. Afterwards every run in the database is compared with what its instance told.
Prints one JSON object; the exit status is 1 when an event is missing or there twice, or a run has no verdict.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import resource
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
    answer_with,
    cpu_s,
    make_key,
    play,
    post,
    request_of,
    wait_for,
)
from serve import Puppet as OncePuppet

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import itertools

from harness.postgres import Postgres

SERVERS = 3
ENDED_WITHIN_S = 240.0


class Puppet(OncePuppet):
    """Instances that a second server may ask about a run which the first one began."""

    def __init__(self, folder: Path, rate: float, seconds: float) -> None:
        super().__init__(folder, rate, seconds)
        self._orders: dict[str, dict[str, Any]] = {}

    async def session(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            head = json.loads(await process.stdin.readline())
            if "nonce" in head:
                await self._follow(process, head)
                return
            order = await request_of(process)
            await (self._begin if head["arguments"] == ["start"] else self._status)(process, order)
        except (asyncssh.Error, ConnectionError):
            pass  # the other side went away

    async def _begin(self, process: asyncssh.SSHServerProcess[bytes], order: dict[str, Any]) -> None:
        self._orders[order["run"]] = order
        await self._answer_start(process, order)

    async def _status(self, process: asyncssh.SSHServerProcess[bytes], asked: dict[str, Any]) -> None:
        order = self._orders.get(asked["run"])
        if order is None:
            await answer_with(process, {"format": version.FORMAT, "runs": []})
            return
        run = asked["run"]
        is_over = b'"run_finished"' in self._runs[run].data[-400:]
        found = {
            "run": run, "workspace": f"/{run}", "started_unix": order["started_unix"], "remaining_s": 3600.0,
            "files": {name: f"/{run}/{name}.log" for name in ("core", "errors", "events")},
            "is_current": True, "is_alive": not is_over, "keeper": not is_over, "agent": not is_over,
            "verdict": "complete" if is_over else None, "plan": order["plan"],
            "started": "2026-01-01T00:00:00.000Z", "state": "running", "status": None,
        }  # fmt: skip
        await answer_with(process, {"format": version.FORMAT, "runs": [found]})


class Reader:
    """One client of the pool: when its stream breaks it goes on at the next server, after the last id that it has seen."""

    def __init__(self, ports: list[int], first: int, run: str) -> None:
        self._ports = ports
        self._at = first
        self._run = run
        self.whole = Client(0, run)
        self.arrivals: list[float] = []
        self.reconnects = 0

    async def follow(self) -> None:
        """To the outcome."""
        while self.whole.verdict is None:
            client = Client(self._ports[self._at % len(self._ports)], self._run)
            try:
                await self._read(client)
            except (OSError, asyncio.IncompleteReadError):
                pass
            if self.whole.verdict is None:
                self._at += 1
                self.reconnects += 1
                await asyncio.sleep(0.1)

    async def _read(self, client: Client) -> None:
        seen, number = self.whole, 0
        reader, writer = await client.open(after=seen.ids[-1] if seen.ids else 0)
        try:
            while line := await reader.readline():
                if line.startswith(b"id: "):
                    number = int(line[4:])
                elif line.startswith(b"data: "):
                    seen.ids.append(number)
                    self.arrivals.append(time.monotonic())
                    event = json.loads(line[6:])
                    if event.get("from") != "collector":
                        seen.agent_seqs.append(event["seq"])
                    elif event["event"] == "outcome":
                        seen.verdict = event["verdict"]
                        return
        finally:
            writer.close()

    def silence_s(self, since: float) -> float:
        """The longest time without an event since *since*."""
        at = [since, *(moment for moment in self.arrivals if moment > since)]
        return max((later - earlier for earlier, later in itertools.pairwise(at)), default=0.0)


def database_cpu_s(cluster: Postgres) -> float:
    """The processor's time of all of the database's processes, those that ended too."""
    postmaster = int((cluster.data / "postmaster.pid").read_text().splitlines()[0])
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == postmaster:
            total += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            total += int(fields[11]) + int(fields[12])
    return total / ticks


class Servers:
    """The pool on one database."""

    def __init__(self, folder: Path, cluster: Postgres, lease: str) -> None:
        self.database = cluster.database()
        self._cluster = cluster
        self.children: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []
        for number in range(SERVERS):
            home = folder / f"server{number}"
            home.mkdir()
            environment = {**os.environ, "XDG_STATE_HOME": str(home / "state"), "PROVISION_TOKEN": TOKEN}
            words = [
                PROVISION, "serve", "--listen", "127.0.0.1:0", "--json", "--keys", str(folder),
                "--database", self.database, "--lease", lease, "--keep", "100000",
            ]  # fmt: skip
            with (home / "out").open("wb") as out, (home / "err").open("wb") as err:
                self.children.append(
                    subprocess.Popen(words, cwd=home, env=environment, stdout=out, stderr=err)
                )
            try:
                said = json.loads(wait_for(home / "out"))
            except TimeoutError:
                raise SystemExit(f"server {number} does not start: {(home / 'err').read_text()}") from None
            self.ports.append(int(said["url"].rpartition(":")[2]))

    def ask(self, command: str) -> list[str]:
        """The columns of the one row that *command* finds."""
        return self._cluster.sql(command, self.database).split("|")

    def cpu_s(self) -> list[float]:
        return [cpu_s(child.pid) for child in self.children]

    def kill(self, number: int) -> tuple[float, float]:
        """SIGKILL; when, and the processor's time that it had used."""
        child = self.children[number]
        used = cpu_s(child.pid)
        child.kill()
        return time.monotonic(), used

    def end(self) -> None:
        for child in self.children:
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            child.wait(60)


async def taken_over(servers: Servers, killed_at: float) -> dict[str, float]:
    """How long until the first and all of the killed server's unfinished runs were another's."""
    of_it = f"w.name LIKE '%:{servers.children[0].pid}'"
    lost = (
        "SELECT count(*) FILTER (WHERE r.owner IS NULL OR w.is_dead OR "
        + of_it
        + "), count(*) FILTER (WHERE r.epoch > 0)"
        " FROM runs r LEFT JOIN workers w ON w.id = r.owner WHERE r.verdict IS NULL"
    )
    told: dict[str, float] = {}
    while "all" not in told:
        left, taken = map(int, await asyncio.to_thread(servers.ask, lost))
        now = time.monotonic() - killed_at
        if taken:
            told.setdefault("first", round(now, 1))
        if not left:
            told["all"] = round(now, 1)
        await asyncio.sleep(0.1)
    return told


async def measure(
    servers: Servers, cluster: Postgres, ssh_port: int, folder: Path, words: argparse.Namespace
) -> dict[str, Any]:
    """Begin the runs, follow them, kill one server, and sum up."""
    begun = time.monotonic()

    async def order(numbers: range, port: int) -> None:
        for number in numbers:
            await asyncio.to_thread(post, port, {
                "host": "127.0.0.1", "port": ssh_port, "user": getpass.getuser(), "key": str(folder / "key"),
                "profile_yaml": PROFILE, "run_id": f"load{number}", "instance_id": f"i{number}",
            })  # fmt: skip

    await asyncio.gather(
        *(order(range(n, words.runs, SERVERS), port) for n, port in enumerate(servers.ports))
    )
    while servers.ask("SELECT count(*) FROM runs WHERE state <> 'running'") != ["0"]:
        await asyncio.sleep(0.5)
    going_s = time.monotonic() - begun
    readers = [Reader(servers.ports, n, f"load{n % words.runs}") for n in range(words.clients)]
    following = [asyncio.create_task(reader.follow()) for reader in readers]
    before, database_before = servers.cpu_s(), database_cpu_s(cluster)
    (folder / "go").touch()
    await asyncio.sleep(words.seconds * 0.75)  # all tell: they began within half of that time
    on_it = int(
        servers.ask(
            f"SELECT count(*) FROM runs WHERE verdict IS NULL AND owner LIKE '%:{servers.children[0].pid}:%'"
        )[0]
    )
    killed_at, killed_used = servers.kill(0)
    taken = await taken_over(servers, killed_at)
    async with asyncio.timeout(words.seconds + ENDED_WITHIN_S):
        await asyncio.gather(*following)
        while servers.ask("SELECT count(*) FROM runs WHERE verdict IS NULL") != ["0"]:
            await asyncio.sleep(0.5)
    used = (
        killed_used
        - before[0]
        + sum(now - then for now, then in zip(servers_cpu(servers), before[1:], strict=True))
    )
    events = int(words.rate * words.seconds) * words.runs
    told = int(words.rate * words.seconds) + 2
    by_run = (
        "SELECT count(*) FILTER (WHERE n <> most), count(*) FILTER (WHERE agents <> " + str(told) + ") FROM ("
        "SELECT count(*) n, max(id) most, count(*) FILTER (WHERE convert_from(body, 'UTF8') NOT LIKE '%\"from\": \"collector\"%'"
        " AND convert_from(body, 'UTF8') NOT LIKE '%\"from\":\"collector\"%') agents FROM events GROUP BY rid) e"
    )
    gaps, unlike = map(int, servers.ask(by_run))
    silent = sorted(reader.silence_s(killed_at) for reader in readers)
    return {
        "servers": SERVERS,
        "runs": words.runs,
        "clients": words.clients,
        "events_per_s": round(words.runs * words.rate),
        "all_going_after_s": round(going_s, 1),
        "runs_of_the_killed_server": on_it,
        "taken_over_after_s": taken,
        "longest_silence_s": {"median": round(silent[len(silent) // 2], 1), "most": round(silent[-1], 1)},
        "servers_cpu_ms_per_event": round(1000 * used / events, 2),
        "database_cpu_ms_per_event": round(1000 * (database_cpu_s(cluster) - database_before) / events, 2),
        "reconnects": sum(reader.reconnects for reader in readers),
        "readers_with_gaps_or_doubles": sum(not reader.whole.is_whole() for reader in readers),
        "runs_with_gaps": gaps,
        "runs_unlike_what_their_instance_told": unlike,
        "runs_without_verdict": int(
            servers.ask("SELECT count(*) FROM runs WHERE verdict IS DISTINCT FROM 'complete'")[0]
        ),
    }


def servers_cpu(servers: Servers) -> list[float]:
    """Of those that live."""
    return [cpu_s(child.pid) for child in servers.children[1:]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=60.0, help="so long each run tells")
    parser.add_argument("--rate", type=float, default=1.0, help="events a second and run")
    parser.add_argument("--lease", default="10s")
    parser.add_argument("--puppet", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.puppet is not None:
        asyncio.run(play(words.puppet, Puppet(words.puppet, words.rate, words.seconds).session))
        return 0
    load = os.getloadavg()[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    cluster = Postgres(is_durable=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_key(folder)
        told = ["--rate", str(words.rate), "--seconds", str(words.seconds)]
        instances = subprocess.Popen([sys.executable, __file__, "--puppet", name, *told])
        try:
            servers = Servers(folder, cluster, words.lease)
            try:
                ssh_port = int(wait_for(folder / "port"))
                result = asyncio.run(measure(servers, cluster, ssh_port, folder, words))
            finally:
                servers.end()
        finally:
            instances.terminate()
            instances.wait(20)
            cluster.close()
    print(json.dumps({**result, "load_before": round(load, 1), "cpus": os.cpu_count()}, indent=1))
    wrong = (
        "readers_with_gaps_or_doubles",
        "runs_with_gaps",
        "runs_unlike_what_their_instance_told",
        "runs_without_verdict",
    )
    return int(any(result[name] for name in wrong))


if __name__ == "__main__":
    sys.exit(main())
