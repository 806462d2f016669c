"""How fast do files go to an instance and come home, next to scp, rsync and a bare SSH channel?

One real sshd on loopback. "bare channel" is the same SSH library, one command on the other side that takes or gives the
bytes and nothing else: no hash, no file, no resume. What is copied is compared by its sha256 in every round.

    python benchmarks/copying.py                    one file of 2 GB, 1 000 small ones, a cut in the middle
    python benchmarks/copying.py --bytes 256MiB     a smaller file
    python benchmarks/copying.py --rounds 3         medians of three
    python benchmarks/copying.py --delay 20ms       an instance that answers so much later

"start" is a copy of one byte: what it takes to start, log in and find the agent. Rates are without it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import asyncssh
from distant import DistantHost
from provision_collector.demo.instance import EmbeddedInstance
from provision_collector.instance import connect
from provision_collector.instance.address import Instance
from provision_collector.profile.units import duration_s, size_bytes

PROVISION = str(Path(sys.executable).with_name("provision"))
SMALL_FILES, SMALL_BYTES = 1000, 4096
PIECE = 128 << 10


class Bench:
    """One instance, a folder here, and the ways to copy between them."""

    def __init__(self, folder: Path, instance: EmbeddedInstance, port: int) -> None:
        self.port = port
        self.here = folder / "here"
        self.here.mkdir()
        self.instance = instance
        self.there = instance.workspace
        self.there.mkdir(exist_ok=True)
        self.login = f"{instance.user}@{instance.host}"
        self.ssh = [
            "-i", str(instance.key_path), "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known",
            "-o", "LogLevel=ERROR", "-o", "Ciphers=aes128-gcm@openssh.com",
        ]  # fmt: skip
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}

    def command(self, way: str, source: str, target: str) -> list[str]:
        """Copies *source* to *target*: an absolute path in the workspace is there, another one here."""
        paths = [self._named(way, path) for path in (source, target)]
        if way == "provision":
            host = f"{self.instance.user}@{self.instance.host}:{self.port}"
            where = ["--host", host, "--key", str(self.instance.key_path), "--workspace", str(self.there)]
            return [PROVISION, "copy", *where, "--quiet", *paths]
        if way == "scp":
            return ["scp", "-q", "-r", "-p", "-P", str(self.port), *self.ssh, *paths]
        shell = " ".join(["ssh", "-p", str(self.port), *self.ssh])
        return ["rsync", "-a", "-S", "--partial", "-e", shell, *paths]

    def _named(self, way: str, path: str) -> str:
        if not path.startswith(f"{self.there}/"):
            return path
        return f":{path}" if way == "provision" else f"{self.login}:{path}"

    def ended(self, command: list[str]) -> None:
        subprocess.run(command, check=True, cwd=self.here, env=self.environment, stdout=subprocess.DEVNULL)

    def bare(self, count: int, *, sends: bool) -> float:
        """Seconds for *count* bytes over one channel, without the login."""
        return asyncio.run(self._bare(count, sends=sends))

    async def _bare(self, count: int, *, sends: bool) -> float:
        address = Instance(
            self.instance.host,
            port=self.port,
            user=self.instance.user,
            key=str(self.instance.key_path),
        )
        connection = await connect(address)
        began = time.monotonic()
        if sends:
            process = await connection.ssh.create_process(
                "cat > /dev/null", encoding=None, stdout=asyncssh.DEVNULL, window=8 << 20
            )
            piece = bytes(PIECE)
            for _ in range(count // PIECE):
                process.stdin.write(piece)
                await process.stdin.drain()
            process.stdin.write_eof()
            await process.wait()
        else:
            process = await connection.ssh.create_process(
                f"head -c {count} /dev/zero", encoding=None, window=8 << 20
            )
            left = count
            while left > 0 and (data := await process.stdout.read(1 << 20)):
                left -= len(data)
        took_s = time.monotonic() - began
        connection.abort()
        return took_s


def took(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cut(bench: Bench, way: str, source: str, target: Path, size: int) -> tuple[float, int]:
    """Kill a copy in its middle and do it again; the seconds of the second, and what had landed."""
    target.unlink(missing_ok=True)
    command = bench.command(way, source, str(target))
    child = subprocess.Popen(command, cwd=bench.here, env=bench.environment, stderr=subprocess.DEVNULL)
    landed = 0
    while landed <= size // 2 and child.poll() is None:
        parts = [*target.parent.glob(target.name), *target.parent.glob(f".{target.name}.*")]
        landed = max((path.stat().st_size for path in parts if path.exists()), default=0)
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL if way == "provision" else signal.SIGTERM)  # which rsync keeps a part at
    child.wait()
    return took(lambda: bench.ended(command)), landed


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--bytes", type=size_bytes, default=2 * 10**9)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--delay", type=duration_s, default=0.0, help="of a round trip")
    chosen = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedInstance(Path(name) / "instance", server="sshd") as made,
    ):
        distant = DistantHost(made.port, chosen.delay) if chosen.delay else None
        bench = Bench(Path(name), made, distant.port if distant is not None else made.port)
        measure(bench, chosen.bytes // PIECE * PIECE, chosen.rounds)
        if distant is not None:
            distant.close()


def measure(bench: Bench, size: int, rounds: int) -> None:
    big, small = bench.here / "big", bench.here / "small"
    with big.open("wb") as file:
        for _ in range(size // PIECE):
            file.write(random.randbytes(PIECE))
    small.mkdir()
    for number in range(SMALL_FILES):
        (small / f"{number:04}").write_bytes(random.randbytes(SMALL_BYTES))
    (bench.here / "one").write_bytes(b"1")
    wanted = digest(big)
    bench.ended(
        bench.command("provision", "one", str(bench.there / "warm"))
    )  # the agent is there from now on
    ways = ["provision", "scp", *(["rsync"] if shutil.which("rsync") else [])]
    print(
        f"one file of {size / 1e6:.0f} MB, {SMALL_FILES} files of {SMALL_BYTES} B; load {os.getloadavg()[0]:.1f}"
    )
    bare: list[tuple[float, float]] = []
    seconds: dict[str, list[Round]] = {way: [] for way in ways}
    for _ in range(rounds):  # in turn, so that all have the same of what else this machine does
        bare.append((bench.bare(size, sends=True), bench.bare(size, sends=False)))
        for way in ways:
            seconds[way].append(one_round(bench, way, wanted))
    there, home = (size / statistics.median(column) / 1e6 for column in zip(*bare, strict=True))
    print(
        f"{'way':14} {'start s':>8} {'there MB/s':>11} {'home MB/s':>11} {'small there s':>14} {'small home s':>13}"
    )
    print(f"{'bare channel':14} {'':8} {there:11.0f} {home:11.0f}")
    for way in ways:
        median = Round(*(statistics.median(column) for column in zip(*seconds[way], strict=True)))
        rates = [size / max(took_s - median.start, 1e-3) / 1e6 for took_s in (median.there, median.home)]
        print(
            f"{way:14} {median.start:8.2f} {rates[0]:11.0f} {rates[1]:11.0f} {median.small_there:14.2f}"
            f" {median.small_home:13.2f}   {rates[0] / there:.2f} and {rates[1] / home:.2f} of the bare channel",
            flush=True,
        )
    for way in ways:
        for name, source, target in (
            ("there", "big", bench.there / "cut"),
            ("home", str(bench.there / "big.there"), bench.here / "cut"),
        ):
            again_s, landed = cut(bench, way, source, target, size)
            assert digest(target) == wanted
            print(
                f"{way}, {name}, cut after {landed / 1e6:.0f} MB: the same command again takes {again_s:.1f} s"
            )


class Round(NamedTuple):
    """The seconds of one way, once."""

    start: float
    there: float
    home: float
    small_there: float
    small_home: float


def one_round(bench: Bench, way: str, wanted: str) -> Round:
    for path in (bench.there / "big.there", bench.here / "big.home", bench.there / "one"):
        path.unlink(missing_ok=True)
    for folder in (bench.there / "small", bench.here / "small.home"):
        shutil.rmtree(folder, ignore_errors=True)

    def copied(source: str, target: Path) -> float:
        return took(lambda: bench.ended(bench.command(way, source, str(target))))

    slash = "/" if way == "rsync" else ""
    seconds = Round(
        copied("one", bench.there / "one"),
        copied("big", bench.there / "big.there"),
        copied(str(bench.there / "big.there"), bench.here / "big.home"),
        copied(f"small{slash}", bench.there / "small"),
        copied(f"{bench.there / 'small'}{slash}", bench.here / "small.home"),
    )
    assert digest(bench.there / "big.there") == digest(bench.here / "big.home") == wanted, way
    assert len(list((bench.here / "small.home").iterdir())) == SMALL_FILES, way
    return seconds


if __name__ == "__main__":
    main()
