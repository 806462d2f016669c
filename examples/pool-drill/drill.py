"""A drill for a warm pool: hundreds of played runs through `provision serve`; some instances hang, some are lemons.

    python examples/pool-drill/drill.py [--runs 500] [--want 25] [--hang 5] [--lemons 2]

The server is the real one and so is SSH; the instances are played by `played.py`, ten times as fast as real ones. The pool below is what
yours does: rent, order, wait until usable, replace what comes to nothing, give back. Put your provider into `rent` and `give_back`, and
it is a pool. What it prints, and what `GET /metrics` and the page's part "Pool" say of the same runs, is what a pool is judged by.

Needs nothing but Python 3.11 and `pip install '.[server]'`; ends with 1 when a good instance was thrown away or a run has no end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
PROVISION = str(Path(sys.executable).with_name("provision"))
PROFILE = """version: 1
name: drill
require: {line: 200Mbit, within: 10s}
downloads: [{url: "https://models.example.org/model.safetensors", path: models/, level: critical}]
"""


@dataclass
class Ordered:
    """One run, from its order to the moment at which its instance was given back."""

    instance: str
    ordered_at: float
    usable_s: float | None = None
    """From the order, in seconds."""
    given_up: bool = False
    verdict: str | None = None
    billed_s: float = 0.0


@dataclass
class Report:
    """What the drill is judged by."""

    runs: list[Ordered] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)
    """How long whoever needed an instance waited for a usable one, with all that was replaced on the way."""

    def lines(self) -> list[str]:
        """The report, as a table."""
        usable = sorted(run.usable_s for run in self.runs if run.usable_s is not None)
        bad = [run for run in self.runs if run.usable_s is None]
        billed_s, wasted_s = sum(run.billed_s for run in self.runs), sum(run.billed_s for run in bad)
        rows = [
            ("runs ordered", f"{len(self.runs)}"),
            ("became usable", f"{len(usable)} ({100 * len(usable) / len(self.runs):.1f} %)"),
            ("order to usable, median and p95", f"{_at(usable, 50):.1f} s, {_at(usable, 95):.1f} s"),
            ("wanted to usable, replaced ones included, p95", f"{_at(sorted(self.waited_s), 95):.1f} s"),
            (
                "seconds wasted on runs that came to nothing",
                f"{wasted_s:.0f} of {billed_s:.0f} billed ({100 * wasted_s / billed_s:.1f} %)",
            ),
        ]
        for kind in ("stuck", "frozen", "lemon", "good"):
            of_kind = [run for run in bad if run.instance.startswith(kind)]
            if of_kind:
                ends = Counter(
                    "given up by the pool" if run.given_up else str(run.verdict) for run in of_kind
                )
                told = ", ".join(f"{count} {end}" for end, count in ends.most_common())
                mean_s = sum(run.billed_s for run in of_kind) / len(of_kind)
                rows.append((f"{kind} instances, {mean_s:.0f} s each", told))
        return ["| | |", "|---|---|", *(f"| {name} | {told} |" for name, told in rows)]


def _at(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else float("nan")


class Provider:
    """Instances for rent, each of a kind that shows only later."""

    def __init__(self, words: argparse.Namespace, port: int) -> None:
        rng = random.Random(words.seed)  # noqa: S311 -- a drill, no secret
        lemons, hang = round(words.runs * words.lemons / 100), round(words.runs * words.hang / 100)
        kinds = ["lemon"] * lemons + [("stuck", "frozen")[at % 2] for at in range(hang)]
        kinds += ["good"] * (words.runs - len(kinds))
        rng.shuffle(kinds)
        self._for_rent = [f"{kind}-{number:04d}" for number, kind in enumerate(kinds)]
        self._port = port

    def rent(self) -> str | None:
        """The login of the next instance; None: there are no more."""
        return self._for_rent.pop() if self._for_rent else None

    def give_back(self, run: Ordered) -> None:
        """It is not paid for any more."""
        run.billed_s = time.monotonic() - run.ordered_at

    def address_of(self, instance: str) -> dict[str, object]:
        """How the server reaches it: here, every login is a machine of its own."""
        return {
            "host": "127.0.0.1",
            "port": self._port,
            "user": instance,
            "key": "key",
            "instance_id": instance,
        }


class Server:
    """The HTTP API, as far as a pool needs it; of several servers the one that answers."""

    def __init__(self, urls: list[str], token: str) -> None:
        self._places = [(str(url.hostname), url.port or 80) for url in map(urlsplit, urls)]
        self._token = token

    async def ask(self, method: str, path: str, body: object = None) -> bytes:
        """The answer's body. What may be said twice is said until a server answers."""
        while True:
            for place in list(self._places):
                try:
                    reader, writer = await self._open(place, method, path, body)
                    answer = await reader.read()
                    writer.close()
                except OSError:
                    self._places.append(self._places.pop(0))
                    continue
                head, _, told = answer.partition(b"\r\n\r\n")
                status = int(head.split()[1]) if head else 503
                if status < 400:
                    return told
                if status != 503:
                    raise RuntimeError(f"{method} {path}: {status} {told.decode()}")
            await asyncio.sleep(0.5)

    async def events(self, run: str) -> AsyncIterator[dict[str, object]]:
        """Every event of a run, once, whatever happens to a connection or to a server."""
        last = "0"
        while True:
            try:
                reader, writer = await self._open(
                    self._places[0], "GET", f"/api/runs/{run}/events?after={last}"
                )
                while line := await reader.readline():
                    if line.startswith(b"id: "):
                        last = line[4:].decode().strip()
                    elif line.startswith(b"data: "):
                        event: dict[str, object] = json.loads(line[6:])
                        yield event
                        if event["event"] == "outcome":
                            writer.close()
                            return
                writer.close()
            except OSError:
                self._places.append(self._places.pop(0))
            await asyncio.sleep(0.5)

    async def _open(
        self, place: tuple[str, int], method: str, path: str, body: object = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*place, limit=1 << 22)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.0\r\nHost: {place[0]}:{place[1]}\r\nAuthorization: Bearer {self._token}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n" if data else "\r\n"
        writer.write(head.encode() + data)
        return reader, writer


class Pool:
    """So many usable instances at a time, until the provider has none left."""

    def __init__(self, server: Server, provider: Provider, words: argparse.Namespace) -> None:
        self._server = server
        self._provider = provider
        self._words = words
        self.report = Report()

    async def run(self) -> None:
        """Keep `--want` slots busy; each uses an instance for a while and wants another one."""
        await asyncio.gather(*(self._slot(number) for number in range(self._words.want)))

    async def _slot(self, number: int) -> None:
        await asyncio.sleep(number * 0.1)  # not all in one moment
        wanted_at = time.monotonic()
        while (instance := self._provider.rent()) is not None:
            run = await self._bring_up(instance)
            if run.usable_s is not None:
                self.report.waited_s.append(time.monotonic() - wanted_at - self._words.use)
                wanted_at = time.monotonic()

    async def _bring_up(self, instance: str) -> Ordered:
        """One instance, from the order until it is given back."""
        run = Ordered(instance, time.monotonic())
        self.report.runs.append(run)
        name = f"drill-{instance}"
        order = {
            **self._provider.address_of(instance), "run_id": name, "profile_yaml": PROFILE, "labels": {"pool": "drill"},
            "contact_timeout": f"{self._words.contact_timeout:g}s",
        }  # fmt: skip
        await self._server.ask("POST", "/api/runs", order)
        try:
            async with asyncio.timeout(self._words.patience) as patience:
                async for event in self._server.events(name):
                    if event["event"] == "run_usable":
                        run.usable_s = time.monotonic() - run.ordered_at
                        patience.reschedule(None)
                    elif event["event"] == "outcome":
                        run.verdict = str(event["verdict"])
        except TimeoutError:  # it hangs: what is not usable by now is not worth waiting for
            run.given_up = True
            await self._server.ask("POST", f"/api/runs/{name}/release")
        if run.usable_s is not None:
            await asyncio.sleep(self._words.use)
        self._provider.give_back(run)
        return run


async def drill(words: argparse.Namespace, folder: Path) -> int:
    """Play instances, serve, run the pool, report."""
    played = _play(words, folder)
    servers: list[subprocess.Popen[bytes]] = []
    token = secrets.token_urlsafe(24)
    try:
        while not (folder / "port").exists():
            await asyncio.sleep(0.05)
            if played.poll() is not None:
                return 1
        urls = []
        for number in range(words.servers):
            servers.append(_serve(words, folder / f"server{number}", folder, token))
            out = servers[-1].stdout
            assert out is not None
            told = json.loads(await asyncio.to_thread(out.readline))
            urls.append(told["url"])
            print(f"the page: {told['page']}", file=sys.stderr, flush=True)
        server = Server(urls, token)
        pool = Pool(server, Provider(words, int((folder / "port").read_text())), words)
        begun = time.monotonic()
        await pool.run()
        print(
            f"{words.runs} runs, {words.want} at a time, in {time.monotonic() - begun:.0f} s; load {os.getloadavg()[0]:.1f}\n"
        )
        print("\n".join(pool.report.lines()))
        print("\nWhat the server itself counted:\n")
        print("\n".join(await _counted(server, words)), flush=True)
        if words.stay:
            await asyncio.to_thread(input, "Enter ends the drill: ")
    finally:
        for process in (*servers, played):
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    lost = [run for run in pool.report.runs if run.usable_s is None and run.instance.startswith("good")]
    return 1 if lost or len(pool.report.runs) != words.runs else 0


def _play(words: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "played.py"), str(folder), "--median", str(words.median)]
    )


def _serve(words: argparse.Namespace, state: Path, keys: Path, token: str) -> subprocess.Popen[bytes]:
    state.mkdir()
    more = ["--database", words.database] if words.database else []
    return subprocess.Popen(
        [PROVISION, "serve", "--listen", "127.0.0.1:0", "--json", "--keys", str(keys), "--state-dir", str(state), *more],
        cwd=state, env={**os.environ, "XDG_STATE_HOME": str(state), "PROVISION_TOKEN": token}, stdout=subprocess.PIPE,
    )  # fmt: skip


async def _counted(server: Server, words: argparse.Namespace) -> list[str]:
    """What `/metrics` says of the runs, as soon as it has counted all of them; of several servers, each has its own."""
    ended, refused, billed = (
        "provision_profile_runs_ended_total",
        "provision_instances_refused_total",
        "provision_failed_runs_billed",
    )
    while True:
        lines = (await server.ask("GET", "/metrics")).decode().splitlines()
        count = sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(ended))
        if count >= words.runs or words.servers > 1:
            return [
                line
                for line in lines
                if line.startswith((ended, refused, billed)) and not line.endswith(" 0.0")
            ]
        await asyncio.sleep(0.2)


def main() -> None:
    """Read the words, and drill."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--want", type=int, default=25, help="instances at a time (25)")
    parser.add_argument("--hang", type=float, default=5.0, metavar="PERCENT", help="instances that hang (5)")
    parser.add_argument(
        "--lemons", type=float, default=2.0, metavar="PERCENT", help="instances that are unfit (2)"
    )
    parser.add_argument(
        "--median", type=float, default=6.0, metavar="SECONDS", help="median time to usable (6)"
    )
    parser.add_argument(
        "--use", type=float, default=2.0, metavar="SECONDS", help="an instance is used so long (2)"
    )
    parser.add_argument(
        "--patience", type=float, default=30.0, metavar="SECONDS", help="not usable by then: it hangs (30)"
    )
    parser.add_argument(
        "--contact-timeout",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="not reached for so long: lost (15)",
    )
    parser.add_argument("--servers", type=int, default=1, help="so many servers, with --database (1)")
    parser.add_argument("--database", help="postgresql://…, for several servers")
    parser.add_argument("--seed", type=int, default=1, help="which instance is of which kind (1)")
    parser.add_argument(
        "--stay", action="store_true", help="leave the server there until Enter, to look at its page"
    )
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drill") as folder:
        sys.exit(asyncio.run(drill(words, Path(folder))))


if __name__ == "__main__":
    main()
