"""How soon is an instance usable when everything overlaps, next to one step after the other?

Clones, installs and downloads come from three hosts, each at the end of a line of its own speed. The same profile is
done by one `provision up`, and by one `provision up --only STEP` per step; a service starts at the end of both. Best
possible is the longest step alone; what is above it is what could not overlap.

    python benchmarks/overlap.py              two mixes of work, one round each
    python benchmarks/overlap.py --rounds 3   medians of three
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
LINE_BYTES_PER_S = MIB
"""Slow, so that lines are waited for and not the processor, as on an instance."""
STEPS = ("repos", "python", "downloads", "services")
PIECE = 64 << 10


@dataclass(frozen=True)
class Mix:
    """How much comes from each host."""

    repos_mib: int
    wheels_mib: int
    models_mib: int


MIXES = {"large models": Mix(4, 8, 40), "large wheels": Mix(4, 32, 16)}


class Line:
    """Relays to a port of this machine; all connections together get so many bytes per second."""

    def __init__(self, port: int, bytes_per_s: float) -> None:
        self._target = port
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near = self._listener.accept()[0]
            far = socket.create_connection(("127.0.0.1", self._target))
            for source, sink, is_slow in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._relay, args=(source, sink, is_slow), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, is_slow: bool) -> None:
        try:
            while data := source.recv(PIECE):
                if is_slow:
                    self._take(len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()

    def _take(self, size: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + size / self._bytes_per_s
            wait_s = self._free_at - now
        time.sleep(wait_s)


@dataclass(frozen=True)
class World:
    """Where everything comes from."""

    profile: str
    environment: dict[str, str]


@contextmanager
def world(mix: Mix, folder: Path) -> Iterator[World]:
    """The three hosts, with what *mix* wants of each."""
    from harness.content import Content
    from harness.file_server import FileServer
    from harness.git_server import GitServer, Origin
    from harness.package_index import PackageIndex

    def text(mib: int, seed: int) -> str:
        return bytes(Content(mib * MIB // 2, seed).read(0, mib * MIB // 2)).hex()

    with ExitStack() as stack:
        repos = []
        for number in range(4):
            origin = Origin(str(folder / "origins" / f"r{number}"))
            # hexadecimal digits shrink to half: twice as many are what the line carries
            chunks = {f"{n}.txt": text(1, seed=100 * number + n) for n in range(2 * mix.repos_mib // 4)}
            origin.commit({"requirements.txt": "small", **chunks})
            repos.append(f"r{number}")
        git = stack.enter_context(GitServer(str(folder / "origins")))
        index = stack.enter_context(PackageIndex())
        index.add("small", "1.0")
        for number in range(4):
            part = {f"big{number}/data{n}.py": f"x = '{text(1, n)}'" for n in range(mix.wheels_mib // 4)}
            index.add(f"big{number}", "1.0", files=part)
        files = stack.enter_context(FileServer())
        contents = {f"m{n}": Content.safetensors(mix.models_mib * MIB // 4, seed=n) for n in range(4)}
        for name, content in contents.items():
            files.add(f"/{name}.safetensors", content)

        lines = {
            kind: Line(port_of(url), LINE_BYTES_PER_S)
            for kind, url in (("git", git.smart("r0")), ("index", index.base), ("files", files.url("/")))
        }
        repo_lines = [
            f'  - {{url: "{behind(git.smart(name), lines["git"])}", path: {name}, level: critical}}'
            for name in repos
        ]
        file_lines = [
            f'  - {{url: "{behind(files.url(f"/{name}.safetensors"), lines["files"])}", path: models/{name}.safetensors, '
            f"sha256: {content.sha256}, level: critical}}"
            for name, content in contents.items()
        ]
        port = free_port()
        profile = "\n".join(
            [
                "version: 1",
                "name: overlap",
                "limits: {run: 10m}",
                "python:",
                "  installer: pip",
                "  layers: [[big0, big1, big2, big3], {requirements: r0/requirements.txt}]",
                "repos:",
                *repo_lines,
                "downloads:",
                *file_lines,
                "services:",
                f"  - {{name: web, run: [python, -m, http.server, --bind, 127.0.0.1, '{port}'], level: critical,",
                f"     ready: {{url: 'http://127.0.0.1:{port}/', within: 60s}}}}",
            ]
        )
        yield World(
            profile,
            {
                "PIP_INDEX_URL": behind(index.url, lines["index"]),
                "PIP_EXTRA_INDEX_URL": "",
                "PIP_FIND_LINKS": "",
                "PIP_CONFIG_FILE": os.devnull,
            },
        )


def port_of(url: str) -> int:
    return int(url.split("/")[2].rpartition(":")[2])


def behind(url: str, line: Line) -> str:
    return url.replace(f":{port_of(url)}", f":{line.port}", 1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def usable_after_s(world: World, folder: Path, *orders: tuple[str, ...]) -> list[float]:
    """Seconds to usable of one `provision up` per order, one after the other, on a fresh instance."""
    from provision_collector.demo.instance import EmbeddedInstance

    seconds = []
    with EmbeddedInstance(folder / "instance", environment=world.environment) as instance:
        profile = folder / "profile.yaml"
        profile.write_text(world.profile)
        for order in orders:
            where = [
                "--host",
                f"{instance.user}@{instance.host}:{instance.port}",
                "--key",
                str(instance.key_path),
            ]
            what = ["--profile", str(profile), "--workspace", str(instance.workspace), "--json", *order]
            command = [str(Path(sys.executable).with_name("provision")), "up", *where, *what]
            home = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
            done = subprocess.run(
                command, cwd=folder, env=home, stdout=subprocess.PIPE, timeout=900, check=False
            )
            outcome = json.loads(done.stdout.splitlines()[-1])
            if outcome["verdict"] != "complete":
                raise SystemExit(f"{' '.join(order) or 'all'}: {outcome['verdict']}: {outcome['errors']}")
            seconds.append(float(outcome["usable_after_s"]))
    return seconds


def measure(mix: Mix, rounds: int) -> tuple[dict[str, float], float]:
    """Medians: seconds of each step alone, and of all at once."""
    alone: dict[str, list[float]] = {step: [] for step in STEPS}
    together: list[float] = []
    with tempfile.TemporaryDirectory() as folder, world(mix, Path(folder)) as made:
        for number in range(rounds):
            for kind in ("alone", "together"):
                place = Path(folder, f"{kind}{number}")
                place.mkdir()
                if kind == "together":
                    together += usable_after_s(made, place, ())
                    continue
                orders = [("--only", step) for step in STEPS]
                for step, took_s in zip(STEPS, usable_after_s(made, place, *orders), strict=True):
                    alone[step].append(took_s)
    return {step: statistics.median(took) for step, took in alone.items()}, statistics.median(together)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--mix", action="append", choices=list(MIXES), help="repeatable; default: all")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    print(
        f"| seconds to usable | {' | '.join(STEPS)} | one by one | longest | together | together ÷ longest |"
    )
    print("| --- |" + " ---: |" * (len(STEPS) + 4))
    for name in options.mix or MIXES:
        alone, together = measure(MIXES[name], options.rounds)
        total, longest = sum(alone.values()), max(alone.values())
        cells = [*alone.values(), total, longest, together]
        row = " | ".join(f"{cell:.1f}" for cell in cells)
        print(f"| {name} | {row} | {together / longest:.2f} |", flush=True)


if __name__ == "__main__":
    main()
