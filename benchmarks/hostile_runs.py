"""How quickly `provision serve` answers `/healthz` while eight hostile instances do their worst.

    python benchmarks/hostile_runs.py [--seconds 40]

The server is the real one in its own process, and SSH is real. The instances are one process of lower priority, since they would be
other machines: each floods without end, in its own way, and whatever run the server ends is ordered anew. A client posts a large
YAML profile again and again. The probe is a process of its own: it asks `/healthz` every 50 ms over a new connection. A second server,
which has no run, is asked in the same way at the same time: what is slow there, too, is this machine and not the runs. `starved` is the
share of the time in which a server's main thread was ready to work and got no processor, `cores` what the whole server used.
Prints one JSON object; the exit status is 1 when a probe took longer than 250 ms and the idle server's none did.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
from provision_agent.contract import frames

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from harness.hostile import HostileInstance, event_line

PROVISION = str(Path(sys.executable).with_name("provision"))
TOKEN = "benchmark-token-0123456789"
ASK_EVERY_S = 0.05
LIMIT_S = 0.25
ITEMS = 10
PROFILE = "version: 1\nname: x\nlimits: {run: 1h}\ndownloads:\n" + "".join(
    f"- {{url: 'https://example.com/{number}', path: 'm/{number}'}}\n" for number in range(ITEMS)
)
LARGE_BYTES = 900_000


def beats(run: str) -> Iterator[bytes]:
    """Signs of life, faster than anybody needs them."""
    beat = frames.pack(frames.BEAT, 0, {"sizes": [0, 0, 0], "unread": [0, 0, 0], "late": [0, 0, 0]})
    status = frames.pack(frames.STATUS, 0, {"run": run, "keeper": True, "agent": True})
    while True:
        yield (beat + status) * 100


def generations() -> Iterator[bytes]:
    """A log that begins anew with each byte."""
    number = 0
    while True:
        out = bytearray()
        for _ in range(50):
            number += 1
            facts = {"generation": number, "dev": 1, "ino": number, "at": 1.0, "lost_bytes": 0}
            out += frames.pack(frames.GENERATION, 0, facts) + frames.data_head(0, number, 0, 1) + b"x"
        yield bytes(out)


def data(file: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """*pieces* one after the other, as bytes of the log number *file*."""
    offset = 0
    for piece in pieces:
        yield frames.data_head(file, 0, offset, len(piece)) + piece
        offset += len(piece)


def same(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def progress() -> Iterator[bytes]:
    """Events of items that the plan has."""
    number = 0
    while True:
        lines = []
        for _ in range(200):
            number += 1
            facts = {"level": "required", "bytes": number, "total_bytes": 10**12, "bytes_per_s": 1.0}
            lines.append(event_line(number, "download_progress", item=f"m/{number % ITEMS}", **facts))
        yield b"".join(lines)


def large_events() -> Iterator[bytes]:
    """Events as large as they may be."""
    number = 0
    while True:
        number += 1
        yield event_line(number, "warning", message="m", more=[list(range(8))] * 8000)


def strange_items() -> Iterator[bytes]:
    """Errors of items that no plan has."""
    number = 0
    facts = {
        "level": "required",
        "message": "m" * 900,
        "hint": "h" * 900,
        "retriable": False,
        "class": "c",
        "url": "u",
    }
    while True:
        number += 1
        yield event_line(number, "download_failed", item=f"strange-{number}", **facts)


FLOODS = {
    "events": lambda _: data(2, progress()),
    "large-events": lambda _: data(2, large_events()),
    "strange-items": lambda _: data(2, strange_items()),
    "torn-lines": lambda _: data(2, same(b"{\n" * 20_000)),
    "generations": lambda _: generations(),
    "bytes": lambda _: data(0, same(os.urandom(1 << 18))),
    "single-bytes": lambda _: data(1, same(b"\n")),
    "beats": beats,
}


class Flooder(HostileInstance):
    """Floods whoever follows it in the way *flood*."""

    flood = ""

    async def _follow(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        request = json.loads(await process.stdin.readline())
        process.stdout.write(frames.magic(request["nonce"]))
        out, size = [], 0
        for piece in FLOODS[self.flood](self._run):
            out.append(piece)
            size += len(piece)
            if size > 1 << 16:
                process.stdout.write(b"".join(out))
                out, size = [], 0
                await process.stdout.drain()
                await asyncio.sleep(0)


async def serve_floods(folder: Path) -> None:
    """Every instance, until killed; their ports stand in a file."""
    os.nice(10)
    ports = {}
    instances = []
    for name in FLOODS:
        instance = await Flooder(folder / name).__aenter__()
        instance.flood = name
        instances.append(instance)
        ports[name] = instance.port
    (folder / "ports.tmp").write_text(json.dumps(ports))
    (folder / "ports.tmp").replace(folder / "ports")
    await asyncio.Event().wait()


def ask(port: int, method: str, path: str, body: object = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    head = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), head)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def probe(port: int, seconds: float, answers: Any) -> None:
    """Ask every 50 ms, and put the seconds that each answer took."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        ask(port, "GET", "/healthz")
        found.append(time.monotonic() - begun)
        time.sleep(max(ASK_EVERY_S - found[-1], 0))
    answers.put(found)


def quantiles(found: list[float]) -> dict[str, float]:
    found = sorted(found)
    at = {"p50": 0.5, "p99": 0.99}
    many = {name: round(1000 * found[int(len(found) * part)], 1) for name, part in at.items()}
    return {**many, "max": round(1000 * found[-1], 1), "asked": len(found)}


class Server:
    """One `provision serve` on a folder of its own."""

    def __init__(self, folder: Path, keys: Path) -> None:
        folder.mkdir()
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PROVISION_TOKEN": TOKEN}
        words = ["serve", "--listen", "127.0.0.1:0", "--json", "--keys", str(keys)]
        with (folder / "out").open("wb") as out:
            self.process = subprocess.Popen([PROVISION, *words], cwd=folder, env=environment, stdout=out)
        end = time.monotonic() + 30
        while not (text := (folder / "out").read_text()):
            if time.monotonic() > end:
                raise TimeoutError("the server did not start")
            time.sleep(0.05)
        self.port = int(json.loads(text)["url"].rpartition(":")[2])

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Orders(threading.Thread):
    """Keeps one run going on every hostile instance."""

    def __init__(self, port: int, folder: Path, floods: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self._port, self._folder, self._floods = port, folder, floods
        self.ended: Counter[str] = Counter()
        self.is_going = threading.Event()
        self.is_over = threading.Event()
        self.number = 0

    def order(self, name: str) -> str:
        self.number += 1
        run = f"{name}-{self.number}"
        body = {
            "host": "root@127.0.0.1", "port": self._floods[name], "key": str(self._folder / name / "id_ed25519"),
            "boot_grace": "20s", "contact_timeout": "20s", "profile_yaml": PROFILE, "run_id": run, "instance_id": run,
        }  # fmt: skip
        ask(self._port, "POST", "/api/runs", body)
        return run

    def run(self) -> None:
        going = {name: self.order(name) for name in self._floods}
        self.is_going.set()
        while not self.is_over.wait(0.5):
            for name, run in going.items():
                outcome = ask(self._port, "GET", f"/api/runs/{run}").get("outcome")
                if self.is_over.is_set():
                    return
                if outcome is not None:
                    last = outcome["errors"][-1] if outcome["errors"] else {}
                    self.ended[
                        f"{name}: {outcome['verdict']}, {last.get('class')}: {str(last.get('message'))[:110]}"
                    ] += 1
                    going[name] = self.order(name)


def post_large(port: int, is_over: threading.Event, answers: Counter[str]) -> None:
    lines = "".join(
        f"- {{url: 'https://example.com/{n}', path: 'm/{n}'}}\n" for n in range(LARGE_BYTES // 50)
    )
    body = {
        "host": "root@127.0.0.1",
        "profile_yaml": "version: 1\nname: x\ndownloads:\n" + lines + "nonsense: 1\n",
    }
    while not is_over.is_set():
        answers[str(ask(port, "POST", "/api/runs", body)["error"]["class"])] += 1
        is_over.wait(1)  # orders have their turn


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    idle = Server(folder / "idle", folder)
    server = Server(folder / "server", folder)
    floods = multiprocessing.get_context("spawn").Process(target=run_floods, args=(folder,))
    floods.start()
    try:
        while not (folder / "ports").exists():
            time.sleep(0.05)
        orders = Orders(server.port, folder, json.loads((folder / "ports").read_text()))
        orders.start()
        orders.is_going.wait(60)
        large: Counter[str] = Counter()
        threading.Thread(target=post_large, args=(server.port, orders.is_over, large), daemon=True).start()
        answers = {"hostile": multiprocessing.Queue(), "idle": multiprocessing.Queue()}
        ports = {"hostile": server.port, "idle": idle.port}
        probes = [
            multiprocessing.Process(target=probe, args=(ports[name], seconds, answers[name]))
            for name in answers
        ]
        pids = {"hostile": server.process.pid, "idle": idle.process.pid}
        before = {name: used_s(pid) for name, pid in pids.items()}
        begun = time.monotonic()
        for each in probes:
            each.start()
        found = {name: quantiles(queue.get(timeout=seconds * 3 + 60)) for name, queue in answers.items()}
        took_s = time.monotonic() - begun
        for name, pid in pids.items():
            cpu_s, starved_s = (now - then for now, then in zip(used_s(pid), before[name], strict=True))
            found[name] |= {"cores": round(cpu_s / took_s, 2), "starved": round(starved_s / took_s, 2)}
        orders.is_over.set()
        orders.join(60)
        return {"healthz_ms": found, "ended": dict(sorted(orders.ended.items())), "large_posts": dict(large)}
    finally:
        floods.kill()
        server.close()
        idle.close()


def used_s(pid: int) -> tuple[float, float]:
    """Processor time of a server, and how long its main thread has waited for a processor, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    starved_s = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), starved_s


def run_floods(folder: Path) -> None:
    asyncio.run(serve_floods(folder))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=40.0)
    words = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), words.seconds)
    print(json.dumps({**result, "load_before": round(load, 1), "cpus": os.cpu_count()}, indent=1))
    slowest = {name: found["max"] / 1000 for name, found in result["healthz_ms"].items()}
    return int(slowest["hostile"] > LIMIT_S >= slowest["idle"])


if __name__ == "__main__":
    sys.exit(main())
