"""How fast are the downloads, next to the tools that people use? On this machine, over loopback.

The server is a process of its own; contestants take turns in a rotating order; every file's hash is checked
after each run (only this engine has checked it itself). Read the ratios: the seconds are those of this machine.

    python benchmarks/downloads.py            five rounds of 1 GiB in every mode
    python benchmarks/downloads.py --quick    one round of 256 MiB
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
MODES: dict[str, list[str]] = {
    "plain": [],
    "tls": ["--certificate"],
    "capped": ["--bytes-per-s", str(20 * MIB)],
    "capped, latency": ["--bytes-per-s", str(20 * MIB), "--latency-s", "0.25", "--connect-s", "0.1"],
}
ENGINE = """
import json, sys
from pathlib import Path
from harness.downloads import Bench
from provision_agent.plan import Download, Limits
bench = Bench(Path.cwd(), remaining_s=lambda: 600.0)
job = json.loads(sys.argv[1])
items = [Download(url=url, path=url.rpartition("/")[2], sha256=sha256) for url, sha256 in job["files"].items()]
engine = bench.engine(*items, limits=Limits(connections=job["connections"]))
engine.preflight()
engine.start()
engine.wait()
engine.stop()
sys.exit(any(result.state != "ok" for result in engine.results().values()))
"""


@dataclass(frozen=True)
class Job:
    """What every contestant is given."""

    files: dict[str, str]
    """URL: sha256."""
    certificate: str


@dataclass(frozen=True)
class Measured:
    """What one run took."""

    wall_s: float
    cpu_s: float
    rss_bytes: int


def engine(connections: int | None) -> Callable[[Job], list[str]]:
    def argv(job: Job) -> list[str]:
        return [sys.executable, "-c", ENGINE, json.dumps({"files": job.files, "connections": connections})]

    return argv


def aria2(*options: str) -> Callable[[Job], list[str]]:
    def argv(job: Job) -> list[str]:
        Path("list").write_text(
            "".join(
                f"{url}\n  checksum=sha-256={sha}\n" if "check" in options else f"{url}\n"
                for url, sha in job.files.items()
            )
        )
        common = ["aria2c", "-q", "-x8", "-s8", "-j4", "-ilist", "--file-allocation=none"]
        return [*common, f"--ca-certificate={job.certificate}"]

    return argv


def curl(job: Job) -> list[str]:
    config = "".join(f'url = "{url}"\noutput = "{url.rpartition("/")[2]}"\n' for url in job.files)
    Path("list").write_text(config)
    return [
        "curl",
        "-sfLZ",
        "--no-progress-meter",
        "--parallel-max",
        "4",
        "--cacert",
        job.certificate,
        "-K",
        "list",
    ]


def four_at_once(*command: str) -> Callable[[Job], list[str]]:
    def argv(job: Job) -> list[str]:
        Path("list").write_text("\n".join(job.files))
        filled = [word.replace("CA", job.certificate) for word in command]
        return ["xargs", "-a", "list", "-n1", "-P4", *filled]

    return argv


CONTESTANTS: dict[str, tuple[str, Callable[[Job], list[str]]]] = {
    "aria2c -x8 -s8 -j4": ("aria2c", aria2()),
    "aria2c, checking": ("aria2c", aria2("check")),
    "curl -Z": ("curl", curl),
    "wget, four at once": ("wget", four_at_once("wget", "-q", "--ca-certificate=CA")),
    "axel -n8, four at once": ("axel", four_at_once("axel", "-q", "-n8")),
    "provision, 8 connections per file": (sys.executable, engine(8)),
    "provision": (sys.executable, engine(None)),
}
BASE = "aria2c -x8 -s8 -j4"


@contextmanager
def served(folder: Path, certificate: str, options: list[str]) -> Iterator[str]:
    """A server process; yields the URL of its root."""
    options = [
        word
        for option in options
        for word in ([option, certificate] if option == "--certificate" else [option])
    ]
    argv = [sys.executable, "-m", "harness.file_server", "--directory", str(folder), *options]
    with subprocess.Popen(argv, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None and server.stdout is not None
        port = json.loads(server.stdout.readline())["port"]
        yield f"{'https' if '--certificate' in options else 'http'}://127.0.0.1:{port}"
        server.stdin.close()
        server.wait(timeout=10)


def run(argv: list[str], certificate: str) -> Measured:
    """Run a contestant in the current folder."""
    environment = dict(
        os.environ, SSL_CERT_FILE=certificate, PYTHONPATH=f"{ROOT / 'agent'}:{ROOT / 'tests'}", no_proxy="*"
    )
    began = time.monotonic()
    child = subprocess.Popen(argv, env=environment)
    peak = PeakMemory(child.pid)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - began
    if child.returncode != 0:
        raise SystemExit(f"{argv[0]} ended with {child.returncode}")
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, peak.result())


class PeakMemory:
    """The largest resident set of a process or one of its children; `ru_maxrss` would count the parent's too."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def result(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for pid in [self._pid, *self._children()]:
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                for line in status.splitlines():
                    if line.startswith("VmHWM"):
                        self._peak = max(self._peak, int(line.split()[1]) * 1024)

    def _children(self) -> list[int]:
        try:
            return [
                int(pid) for pid in Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
            ]
        except OSError:
            return []


def check(folder: Path, job: Job) -> None:
    for url, sha256 in job.files.items():
        with (folder / url.rpartition("/")[2]).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise SystemExit(f"{url} did not arrive right")


def measure(
    mode: str, names: list[str], hashes: dict[str, str], work: Path, rounds: int
) -> dict[str, list[Measured]]:
    """Let every contestant fetch all files *rounds* times, in turn."""
    certificate = str(work / "tls" / "certificate.pem")
    results: dict[str, list[Measured]] = {name: [] for name in names}
    with served(work / "files", certificate, MODES[mode]) as root:
        job = Job({f"{root}/{name}": sha256 for name, sha256 in hashes.items()}, certificate)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                folder = work / "out"
                folder.mkdir()
                os.chdir(folder)
                results[name].append(run(CONTESTANTS[name][1](job), certificate))
                check(folder, job)
                os.chdir(work)
                shutil.rmtree(folder)
    return results


def table(mode: str, results: dict[str, list[Measured]], total_bytes: int) -> str:
    """Medians, and the medians of the ratios within each round."""
    lines = [
        f"### {mode}",
        "",
        "| | wall s | x aria2 | CPU s/GB | x aria2 | peak RSS MB |",
        "|---|---|---|---|---|---|",
    ]
    base = results[BASE]
    for name, runs in results.items():
        wall = statistics.median(r.wall_s for r in runs)
        cpu = statistics.median(r.cpu_s for r in runs) / (total_bytes / 1e9)
        wall_ratio = statistics.median(r.wall_s / b.wall_s for r, b in zip(runs, base, strict=True))
        cpu_ratio = statistics.median(r.cpu_s / b.cpu_s for r, b in zip(runs, base, strict=True))
        rss = max(r.rss_bytes for r in runs) / 1e6
        lines.append(f"| {name} | {wall:.2f} | {wall_ratio:.2f} | {cpu:.2f} | {cpu_ratio:.2f} | {rss:.0f} |")
    return "\n".join([*lines, ""])


def prepare(work: Path, files: int, size: int) -> dict[str, str]:
    sys.path.insert(0, str(ROOT / "tests"))
    from harness.file_server import Content, make_certificate

    (work / "files").mkdir()
    (work / "tls").mkdir()
    make_certificate(str(work / "tls"), "127.0.0.1")
    hashes = {}
    for number in range(files):
        content = Content(size, seed=number)
        with (work / "files" / f"{number}.bin").open("wb") as file:
            while file.tell() < size:
                file.write(content.read(file.tell(), MIB))
        hashes[f"{number}.bin"] = content.sha256
    return hashes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, small files")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--mib", type=int, help="size of each file")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="repeatable; default: all")
    parser.add_argument("--only", action="append", help="contestants whose name contains this; repeatable")
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    options = parser.parse_args()
    size = (options.mib or (32 if options.quick else 128)) * MIB
    rounds = options.rounds or (1 if options.quick else 5)
    names = [name for name, (program, _) in CONTESTANTS.items() if shutil.which(program)]
    if BASE not in names:
        raise SystemExit("aria2c is what all are compared with: install it first (`apt install aria2`)")
    if options.only:
        names = [name for name in names if name == BASE or any(word in name for word in options.only)]
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        work = Path(folder)
        hashes = prepare(work, options.files, size)
        for mode in options.mode or MODES:
            chosen = [name for name in names if not (name.startswith("axel") and mode == "tls")]
            print(table(mode, measure(mode, chosen, hashes, work, rounds), size * options.files), flush=True)


if __name__ == "__main__":
    main()
