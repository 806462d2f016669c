"""How long does the Python environment of a ComfyUI take: ours, uv alone, pip alone?

An index on loopback serves the real wheels of a ComfyUI (torch with its CUDA libraries among them), with hashes, ranges
and the metadata of each wheel, as the large indexes do. First each connection gets 20 MB/s, as from a content network
far away; then nothing is held back. Ours is the step `python` of a run; uv and pip make an environment and install the
same requirements. Every round begins with empty caches; the three take turns.

    python benchmarks/environment.py --prepare     fetch the wheels from the usual index, once (about 3.4 GB)
    python benchmarks/environment.py               one round
    python benchmarks/environment.py --rounds 5    medians of five
    python benchmarks/environment.py --set small   some 20 packages without torch

The environments are made in --folder, best one in memory (/dev/shm, 12 GB): ext4 gives no inode again for minutes after
it was deleted, and searches longer with each tree of the round before, which falls on whoever comes later.
The wheels lie in ~/.cache/provision-benchmarks, or where PROVISION_BENCHMARKS says.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(
    os.environ.get("PROVISION_BENCHMARKS", Path.home() / ".cache" / "provision-benchmarks")
).expanduser()
CAP_BYTES_PER_S = 20_000_000
PIECE = 128 << 10
WITHIN_S = 1800
SMALL = """numpy scipy pillow opencv-python-headless transformers tokenizers safetensors aiohttp yarl pyyaml tqdm psutil
alembic SQLAlchemy av pydantic pydantic-settings matplotlib scikit-image GitPython"""
TORCH = """torch torchvision torchaudio torchsde einops sentencepiece kornia spandrel gguf diffusers accelerate
imageio-ffmpeg segment-anything"""
SETS = {"comfyui": f"{SMALL} {TORCH}".split(), "small": SMALL.split()}
SEEDS = ("pip", "setuptools", "wheel")
"""What an environment begins with."""
GOALS = "capped: ours ≤ max(0.35 × uv capped, 1.1 × uv uncapped); uncapped: ≤ 1.05 × uv; both: ≤ 0.3 × pip"


class Wheel(NamedTuple):
    """A file of the index."""

    path: Path
    sha256: str
    metadata: bytes


def prepare(name: str) -> Path:
    """The folder with the wheels of a set, fetched with pip where they are not there."""
    folder = CACHE / f"wheels-{name}-{sys.version_info[0]}.{sys.version_info[1]}"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--only-binary", ":all:", "--dest", str(folder)]
        subprocess.run([*command, *SETS[name]], check=True)
        subprocess.run([*command, *SEEDS], check=True)
        (folder / "complete").write_text("")
    return folder


def wheels_in(folder: Path) -> dict[str, list[Wheel]]:
    """By normalised name."""
    known = folder / "hashes.json"
    hashes = json.loads(known.read_text()) if known.exists() else {}
    found: dict[str, list[Wheel]] = {}
    for path in sorted(folder.glob("*.whl")):
        if path.name not in hashes:
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        with zipfile.ZipFile(path) as archive:
            stem = next(
                name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)
            )
            metadata = archive.read(stem)
        name = re.sub(r"[-_.]+", "-", path.name.partition("-")[0]).lower()
        found.setdefault(name, []).append(Wheel(path, hashes[path.name], metadata))
    known.write_text(json.dumps(hashes))
    return found


class Index:
    """The simple API (PEP 503 and 691), ranges, and the metadata of wheels (PEP 658)."""

    def __init__(self, wheels: dict[str, list[Wheel]]) -> None:
        self.wheels = wheels
        self.files = {wheel.path.name: wheel for each in wheels.values() for wheel in each}
        self.cap: float | None = None
        """Bytes per second of one connection; None: as fast as it goes."""

    def page(self, name: str, accept: str) -> tuple[str, bytes] | None:
        """What the index says of a package, and in which form."""
        wheels = self.wheels.get(name)
        if wheels is None:
            return None
        if "application/vnd.pypi.simple.v1+json" in accept:
            files = [
                {
                    "filename": wheel.path.name,
                    "url": f"/files/{wheel.path.name}",
                    "size": wheel.path.stat().st_size,
                    "hashes": {"sha256": wheel.sha256},
                    "core-metadata": {"sha256": hashlib.sha256(wheel.metadata).hexdigest()},
                    "yanked": False,
                }
                for wheel in wheels
            ]
            about = {"meta": {"api-version": "1.1"}, "name": name, "files": files, "versions": []}
            return "application/vnd.pypi.simple.v1+json", json.dumps(about).encode()
        links = [
            f'<a href="/files/{html.escape(wheel.path.name)}#sha256={wheel.sha256}" '
            f'data-core-metadata="sha256={hashlib.sha256(wheel.metadata).hexdigest()}">{wheel.path.name}</a>'
            for wheel in wheels
        ]
        return "text/html", ("<!DOCTYPE html>\n" + "\n".join(links)).encode()


def serve(folder: Path) -> None:
    """Be the index until stdin ends; a line on stdin sets the cap of one connection (0: none)."""
    index = Index(wheels_in(folder))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        free_at = 0.0

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[0] == "files" and len(parts) == 2:
                if parts[1].endswith(".metadata"):
                    wheel = index.files.get(parts[1][: -len(".metadata")])
                    return self._send("text/plain", wheel.metadata if wheel else None)
                return self._send_file(index.files.get(parts[1]))
            found = index.page(parts[-1], self.headers.get("Accept", ""))
            return self._send(*(found or ("text/plain", None)))

        def _send(self, kind: str, body: bytes | None) -> None:
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("Cache-Control", "max-age=600")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        def _send_file(self, wheel: Wheel | None) -> None:
            if wheel is None:
                return self._send("text/plain", None)
            size = wheel.path.stat().st_size
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, end = (int(span[1]), min(int(span[2] or size - 1) + 1, size)) if span else (0, size)
            self.send_response(206 if span else 200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{wheel.sha256}"')
            self.send_header("Content-Length", str(end - start))
            if span:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.end_headers()
            if self.command == "GET":
                with wheel.path.open("rb") as file:
                    self._pour(file.fileno(), start, end)
            return None

        def _pour(self, descriptor: int, at: int, end: int) -> None:
            self.connection.setblocking(True)
            while at < end:
                cap = index.cap
                count = os.sendfile(
                    self.connection.fileno(), descriptor, at, min(PIECE if cap else 8 << 20, end - at)
                )
                at += count
                if cap:
                    self.free_at = max(self.free_at, time.monotonic() - 0.05) + count / cap
                    time.sleep(max(0.0, self.free_at - time.monotonic()))

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                pass  # it went away

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    for line in sys.stdin:
        index.cap = float(line) or None
        print("set", flush=True)


class Served(NamedTuple):
    """The index as another process has it."""

    url: str
    child: subprocess.Popen[str]

    def hold(self, bytes_per_s: float) -> None:
        """Give each connection so much; 0: all it can take."""
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write(f"{bytes_per_s}\n")
        self.child.stdin.flush()
        self.child.stdout.readline()


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    command = [sys.executable, __file__, "--serve", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        port = int(child.stdout.readline())
        yield Served(f"http://127.0.0.1:{port}/simple", child)
        child.stdin.close()


def environment(url: str, folder: Path) -> dict[str, str]:
    """What every contender is told: this index and no other, and caches that are empty."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return {
        **kept,
        "PIP_INDEX_URL": url,
        "UV_INDEX_URL": url,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CACHE_DIR": str(folder / "pip"),
        "UV_CACHE_DIR": str(folder / "uv"),
        "UV_NO_CONFIG": "1",
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def uv_s(url: str, folder: Path, wanted: list[str]) -> float:
    began = time.monotonic()
    told = environment(url, folder)
    uv = shutil.which("uv", path=told["PATH"])
    assert uv is not None, "there is no uv here"
    _run([uv, "venv", "--seed", "--python", sys.executable, str(folder / "venv")], told)
    _run([uv, "pip", "install", "--python", str(folder / "venv/bin/python"), *wanted], told)
    return time.monotonic() - began


def pip_s(url: str, folder: Path, wanted: list[str]) -> float:
    began = time.monotonic()
    told = environment(url, folder)
    _run([sys.executable, "-m", "venv", str(folder / "venv")], told)
    _run([str(folder / "venv/bin/python"), "-m", "pip", "install", "-q", *wanted], told)
    return time.monotonic() - began


def ours_s(url: str, folder: Path, wanted: list[str]) -> float:
    """From the first event of the environment to its last: the step `python` of a run."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'agent')!r}); "
        "from provision_agent.__main__ import main; sys.exit(main())"
    )
    workspace = folder / "workspace"
    plan = {
        "format": 2,
        "name": "environment",
        "workspace": str(workspace),
        "steps": ["python"],
        "limits": {"run_s": float(WITHIN_S)},
        "python": {"venv": "venv", "installer": "uv", "layers": [{"packages": wanted}]},
    }
    request = json.dumps({"run": "r1", "plan": plan, "secrets": {}})
    began = subprocess.run(
        [sys.executable, "-I", "-c", program, "start"],
        input=request.encode(),
        stdout=subprocess.PIPE,
        env=environment(url, folder),
        timeout=60,
        check=True,
    )
    answer = json.loads(began.stdout.partition(b"provision-answer ")[2])
    events = Path(answer["files"]["events"])
    end = time.monotonic() + WITHIN_S
    while True:
        told = [json.loads(line) for line in events.read_text().splitlines() if line.endswith("}")]
        last = next((event for event in told if event["event"] == "run_finished"), None)
        if last is not None:
            break
        if time.monotonic() > end:
            raise SystemExit("the run did not end")
        time.sleep(0.1)
    if last["verdict"] != "complete":
        raise SystemExit(f"{last}: {[event for event in told if 'fail' in event['event']]}")
    fallen_back = [event["message"] for event in told if "without a lock" in str(event.get("message"))]
    if fallen_back:
        raise SystemExit(f"it went the other way: {fallen_back}")
    moments = [
        datetime.fromisoformat(event["ts"]).timestamp()
        for event in told
        if event["event"].startswith("package_")
    ]
    return max(moments) - min(moments)


def _run(command: list[str], told: dict[str, str]) -> None:
    done = subprocess.run(
        command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WITHIN_S
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout.decode()[-2000:]}")


CONTENDERS: dict[str, Callable[[str, Path, list[str]], float]] = {"ours": ours_s, "uv": uv_s, "pip": pip_s}


def measure(
    folder: Path, name: str, rounds: int, who: list[str], base: Path
) -> dict[tuple[str, str], list[float]]:
    """Seconds by contender and line."""
    took: dict[tuple[str, str], list[float]] = {}
    with served(folder) as index:
        for number in range(rounds):
            for line, cap in (("capped", CAP_BYTES_PER_S), ("uncapped", 0)):
                index.hold(cap)
                for one in who[number % len(who) :] + who[: number % len(who)]:
                    os.sync()
                    place = Path(tempfile.mkdtemp(prefix=f"environment-{one}-", dir=base))
                    try:
                        took.setdefault((one, line), []).append(CONTENDERS[one](index.url, place, SETS[name]))
                    finally:
                        shutil.rmtree(place, ignore_errors=True)
                    print(f"{one} {line}: {took[one, line][-1]:.1f} s", file=sys.stderr, flush=True)
    return took


def table(took: dict[tuple[str, str], list[float]], who: list[str]) -> None:
    medians = {key: statistics.median(each) for key, each in took.items()}
    print("| seconds, median | " + " | ".join(who) + " | ours ÷ uv | ours ÷ pip |")
    print("| --- |" + " ---: |" * (len(who) + 2))
    for line in ("capped", "uncapped"):
        cells = [f"{medians[one, line]:.1f}" for one in who]
        for other in ("uv", "pip"):
            both = {"ours", other} <= set(who)
            cells.append(f"{medians['ours', line] / medians[other, line]:.2f}" if both else "")
        print(f"| {line} | {' | '.join(cells)} |")
    if {"ours", "uv"} <= set(who):
        allowed = max(0.35 * medians["uv", "capped"], 1.1 * medians["uv", "uncapped"])
        print(f"\nours capped {medians['ours', 'capped']:.1f} s, allowed {allowed:.1f} s. Goals: {GOALS}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", choices=list(SETS), default="comfyui")
    parser.add_argument("--only", action="append", choices=list(CONTENDERS), help="repeatable; default: all")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the environments are made; /dev/shm is best"
    )
    parser.add_argument("--prepare", action="store_true", help="fetch the wheels, and no more")
    parser.add_argument("--serve", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    folder = prepare(options.set)
    if options.prepare:
        return
    who = options.only or list(CONTENDERS)
    count = len(list(folder.glob("*.whl")))
    size = sum(path.stat().st_size for path in folder.glob("*.whl"))
    print(
        f"{options.set}: {count} wheels, {size / 1e9:.2f} GB, {os.cpu_count()} cores, {socket.gethostname()}\n"
    )
    table(
        measure(folder, options.set, options.rounds, who, options.folder or Path(tempfile.gettempdir())), who
    )


if __name__ == "__main__":
    main()
