"""How `provision serve` bears a load: many runs followed, many clients on their streams.

    python benchmarks/serve.py [--runs 200] [--clients 100] [--seconds 20] [--rate 2]

The server is the real one in its own process, and SSH is real. The instances are one process that plays the agent's
side of the protocol and writes events at a fixed rate, each with the moment of its writing, so a client's clock minus
an event's own time is the whole way: SSH, mirror, stream, HTTP. Some clients never read: they may cost nothing.
All of it shares this machine's processors: `server_starved` is the share of the time in which the server was ready to
work and got no processor, so a latency beside a large one says nothing about the server; its CPU time per event does.
Prints one JSON object; the exit status is 1 when a client missed an event or a run its verdict.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
from provision_agent.contract import frames, version

PROVISION = str(Path(sys.executable).with_name("provision"))
TOKEN = "benchmark-token-0123456789"
SLEEPY = 5
"""So many clients never read."""
PROFILE = "version: 1\nname: load\nlimits: {run: 1h}\nfiles: [{path: a.txt, content: a}]\n"


class Played:
    """One run: the bytes of its events file so far. Whoever follows it sets `on_new`, and is called after each event."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.on_new: Callable[[], None] = lambda: None

    def event(self, run: str, number: int, kind: str, /, **fields: Any) -> None:
        ts = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {"format": version.FORMAT, "ts": ts, "run": run, "seq": number, "event": kind, **fields}
        self.data += json.dumps(told).encode() + b"\n"
        self.on_new()

    async def follow(self, process: asyncssh.SSHServerProcess[bytes], head: dict[str, Any]) -> None:
        """Play the agent's follower: send what is there and what comes, and beat, until the other side goes."""
        run, write = head["workspace"].strip("/"), process.stdout.write
        number = next(n for n, file in enumerate(head["files"]) if file["path"].endswith("/events.log"))
        offset = int(head["files"][number]["offset"])

        def send() -> None:
            nonlocal offset
            with suppress(BrokenPipeError):
                while new := bytes(self.data[offset : offset + 65536]):
                    write(frames.data_head(number, 0, offset, len(new)) + new)
                    offset += len(new)

        def beat() -> None:
            nonlocal beating
            sizes = [offset if at == number else 0 for at in range(len(head["files"]))]
            zeros = [0] * len(sizes)
            with suppress(BrokenPipeError):  # the other side goes just now
                write(frames.pack(frames.BEAT, 0, {"sizes": sizes, "unread": zeros, "late": zeros}))
            beating = loop.call_later(head["heartbeat_s"], beat)

        write(frames.magic(head["nonce"]))
        write(frames.pack(frames.STATUS, 0, {"run": run, "keeper": True, "agent": True}))
        send()
        loop = asyncio.get_running_loop()
        beating = loop.call_later(head["heartbeat_s"] * random.random(), beat)
        self.on_new = send
        try:
            await process.stdin.read()
        finally:
            beating.cancel()
            self.on_new = lambda: None
        process.exit(0)


class Puppet:
    """Many instances in one process: SSH is real, the agent's side of the protocol is played.

    Whatever run is started tells *rate* events a second for *seconds*, once the file `go` is there.
    """

    def __init__(self, folder: Path, rate: float, seconds: float) -> None:
        self._folder = folder
        self._rate = rate
        self._count = int(rate * seconds)
        self._runs: dict[str, Played] = {}
        self._telling: set[asyncio.Task[None]] = set()

    async def session(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            head = json.loads(await process.stdin.readline())
            await (self._follow(process, head) if "nonce" in head else self._start(process, head))
        except (asyncssh.Error, ConnectionError):
            pass  # the other side went away

    async def _start(self, process: asyncssh.SSHServerProcess[bytes], head: dict[str, Any]) -> None:
        assert head["arguments"] == ["start"], head["arguments"]
        await self._answer_start(process, await request_of(process))

    async def _answer_start(self, process: asyncssh.SSHServerProcess[bytes], order: dict[str, Any]) -> None:
        run = order["run"]
        answer = {
            "format": version.FORMAT, "state": "started", "run": run, "workspace": f"/{run}",
            "started_unix": order["started_unix"], "remaining_s": 3600.0,
            "files": {name: f"/{run}/{name}.log" for name in ("core", "errors", "events")},
        }  # fmt: skip
        if run not in self._runs:  # ordered again after a lost answer, it is the same run
            self._runs[run] = Played()
            task = asyncio.create_task(self._tell(run, self._runs[run]))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        await answer_with(process, answer)

    async def _follow(self, process: asyncssh.SSHServerProcess[bytes], head: dict[str, Any]) -> None:
        await self._runs[head["workspace"].strip("/")].follow(process, head)

    async def _tell(self, run: str, played: Played) -> None:
        played.event(run, 1, "run_started", plan_hash="", name="load", deadline_s=3600, resumed=False)
        while not (self._folder / "go").exists():
            await asyncio.sleep(0.1)
        spread_s = self._count / self._rate / 2  # a pool's runs end one by one
        begun = time.monotonic() + random.random() * spread_s
        for number in range(2, self._count + 2):
            await asyncio.sleep(max(begun + (number - 2) / self._rate - time.monotonic(), 0))
            item = f"models/file{number % 10}.safetensors"
            played.event(
                run, number, "download_progress", item=item, level="required",
                bytes=number * 1000, total_bytes=10**9, bytes_per_s=5000.0,
            )  # fmt: skip
        sizes = {"core": 0, "errors": 0}
        played.event(run, self._count + 2, "run_finished", verdict="complete", duration_s=1.0, sizes=sizes)


async def request_of(process: asyncssh.SSHServerProcess[bytes]) -> dict[str, Any]:
    """What the agent, which is there already, is asked."""
    hello = {"have": True, "python": "python3", "path": "/agent.pyz"}
    process.stdout.write(b"\n\x02provision-agent " + json.dumps(hello).encode() + b"\n")
    return dict(json.loads(await process.stdin.read()))


async def answer_with(process: asyncssh.SSHServerProcess[bytes], answer: dict[str, Any]) -> None:
    """The agent's *answer*, and its end."""
    process.stdout.write(b"\n\x02provision-answer " + json.dumps(answer).encode() + b"\n")
    await process.stdout.drain()
    process.exit(0)


Session = Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]]


async def play(folder: Path, session: Session) -> None:
    """Serve SSH until killed, each session by *session*; the port stands in a file."""
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1", 0,
        server_host_keys=[host_key],
        authorized_client_keys=str(folder / "key.pub"),
        process_factory=session,
        encoding=None,
    )  # fmt: skip
    (folder / "port.tmp").write_text(str(server.get_port()))
    (folder / "port.tmp").replace(folder / "port")
    await asyncio.Event().wait()


def make_key(folder: Path) -> None:
    """The key that the instances take: ``key`` and ``key.pub`` in *folder*."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(folder / "key"))
    key.write_public_key(str(folder / "key.pub"))
    (folder / "key").chmod(0o600)


class Client:
    """One SSE client; remembers ids, sequences and how old each event was."""

    def __init__(self, port: int, run: str) -> None:
        self._port = port
        self._run = run
        self.ages_s: list[float] = []
        self.ids: list[int] = []
        self.agent_seqs: list[int] = []
        self.verdict: str | None = None

    async def open(self, *, after: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask for the events with an id above *after*."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        head = f"GET /api/runs/{self._run}/events HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Last-Event-ID: {after}\r\n" if after else ""
        writer.write(f"{head}\r\n".encode())
        return reader, writer

    async def follow(self) -> None:
        reader, writer = await self.open()
        while line := await reader.readline():
            if line.startswith(b"id: "):
                self.ids.append(int(line[4:]))
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event.get("from") != "collector":
                    if event["event"] == "download_progress":
                        self.ages_s.append(time.time() - datetime.fromisoformat(event["ts"]).timestamp())
                    self.agent_seqs.append(event["seq"])
                elif event["event"] == "outcome":
                    self.verdict = event["verdict"]
                    break
        writer.close()

    def is_whole(self) -> bool:
        """Whether every id and every sequence number came, once."""
        return (
            self.verdict == "complete"
            and self.ids == list(range(1, len(self.ids) + 1))
            and self.agent_seqs == list(range(1, len(self.agent_seqs) + 1))
        )


async def measure(
    port: int, pid: int, ssh_port: int, folder: Path, words: argparse.Namespace
) -> dict[str, Any]:
    """Begin the runs, follow them, and sum up."""
    begun = time.monotonic()
    for number in range(words.runs):
        await asyncio.to_thread(post, port, {
            "host": "127.0.0.1", "port": ssh_port, "user": getpass.getuser(), "key": str(folder / "key"),
            "profile_yaml": PROFILE, "run_id": f"load{number}", "instance_id": f"i{number}",
        })  # fmt: skip
    accepted_s = time.monotonic() - begun
    while {run["state"] for run in await asyncio.to_thread(get, port)} != {"running"}:
        await asyncio.sleep(0.2)
    going_s = time.monotonic() - begun
    clients = [Client(port, f"load{number % words.runs}") for number in range(words.clients)]
    sleepy = [await Client(port, f"load{number % words.runs}").open() for number in range(SLEEPY)]
    (folder / "go").touch()
    cpu_before, starved_before, at_before = cpu_s(pid), starved_s(pid), time.monotonic()
    steady = asyncio.create_task(steady_cpu_s(pid, words.seconds))
    async with asyncio.timeout(words.seconds * 4 + 120):
        await asyncio.gather(*(client.follow() for client in clients))
        while any(run["verdict"] is None for run in await asyncio.to_thread(get, port)):
            await asyncio.sleep(0.5)
    took_s = time.monotonic() - at_before
    cpu_used_s, starved = cpu_s(pid) - cpu_before, starved_s(pid) - starved_before
    for _, writer in sleepy:
        writer.close()
    verdicts = [run["verdict"] for run in await asyncio.to_thread(get, port)]
    ages = sorted(age for client in clients for age in client.ages_s)
    return {
        "runs": words.runs,
        "clients": words.clients,
        "events_per_s": round(words.runs * words.rate),
        "accepted_per_s": round(words.runs / accepted_s),
        "all_going_after_s": round(going_s, 1),
        "latency_ms": {f"p{p}": round(1000 * ages[int(len(ages) * p / 100)], 1) for p in (50, 90, 99)},
        "latency_max_ms": round(1000 * ages[-1], 1),
        "events_seen": len(ages),
        "server_peak_memory_mb": peak_mb(pid),
        "server_cores": round(cpu_used_s / took_s, 2),
        "server_cpu_ms_per_event": round(1000 * cpu_used_s / (words.runs * words.rate * words.seconds), 2),
        "server_cpu_ms_per_event_while_all_tell": round(1000 * await steady / (words.runs * words.rate), 2),
        "server_starved": round(starved / took_s, 2),
        "clients_with_gaps": sum(not client.is_whole() for client in clients),
        "runs_without_verdict": words.runs - verdicts.count("complete"),
    }


def post(port: int, body: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/runs", json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=30).close()


def get(port: int) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/runs?limit=1000", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        runs: list[dict[str, Any]] = json.load(answer)["runs"]
        return runs


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def steady_cpu_s(pid: int, seconds: float) -> float:
    """The processor's time per second while every run tells: from when the last began until the first ends."""
    await asyncio.sleep(seconds / 2 + 1)
    used, at = cpu_s(pid), time.monotonic()
    await asyncio.sleep(max(seconds / 2 - 2, 1))
    return (cpu_s(pid) - used) / (time.monotonic() - at)


def starved_s(pid: int) -> float:
    """How long the main thread has waited for a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def peak_mb(pid: int) -> int:
    match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) // 1024 if match else 0


def wait_for(path: Path) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise TimeoutError(f"{path} did not come")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=2.0, help="events a second and run")
    parser.add_argument("--puppet", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.puppet is not None:
        asyncio.run(play(words.puppet, Puppet(words.puppet, words.rate, words.seconds).session))
        return 0
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_key(folder)
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PROVISION_TOKEN": TOKEN}
        own = [
            sys.executable,
            __file__,
            "--puppet",
            name,
            "--rate",
            str(words.rate),
            "--seconds",
            str(words.seconds),
        ]
        instances = subprocess.Popen(own)
        with (folder / "out").open("wb") as out:
            server = subprocess.Popen(
                [PROVISION, "serve", "--listen", "127.0.0.1:0", "--json", "--keys", name],
                cwd=name,
                env=environment,
                stdout=out,
            )
        try:
            said = json.loads(wait_for(folder / "out"))
            ssh_port = int(wait_for(folder / "port"))
            port = int(said["url"].rpartition(":")[2])
            result = asyncio.run(measure(port, server.pid, ssh_port, folder, words))
        finally:
            for child in (server, instances):
                child.send_signal(signal.SIGTERM)
                child.wait(20)
    print(json.dumps({**result, "load_before": round(load, 1), "cpus": os.cpu_count()}, indent=1))
    return int(bool(result["clients_with_gaps"] or result["runs_without_verdict"]))


if __name__ == "__main__":
    sys.exit(main())
