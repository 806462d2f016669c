"""How fast do files go to an instance and come home, next to scp, rsync and a bare SSH channel?

One real sshd on loopback. "bare channel" is the same SSH library, one command on the other side that takes or gives the
bytes and nothing else: no hash, no file, no resume. What is copied is compared by its sha256 in every round.

    python benchmarks/copying.py                    one file of 2 GB, 1 000 small ones, a cut in the middle
    python benchmarks/copying.py --bytes 256MiB     a smaller file
    python benchmarks/copying.py --rounds 3         medians of three
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

import asyncssh
from provision_collector.demo.instance import EmbeddedInstance
from provision_collector.instance import connect
from provision_collector.instance.address import Instance
from provision_collector.profile.units import size_bytes

PROVISION = str(Path(sys.executable).with_name("provision"))
SMALL_FILES, SMALL_BYTES = 1000, 4096
PIECE = 128 << 10


class Bench:
    """One instance, a folder here, and the ways to copy between them."""

    def __init__(self, folder: Path, instance: EmbeddedInstance) -> None:
        self.here = folder / "here"
        self.here.mkdir()
        self.instance = instance
        self.there = instance.workspace
        self.there.mkdir(exist_ok=True)
        self.login = [f"{instance.user}@{instance.host}"]
        self.ssh = [
            "-i", str(instance.key_path), "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known",
            "-o", "LogLevel=ERROR", "-o", "Ciphers=aes128-gcm@openssh.com",
        ]  # fmt: skip
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}

    def provision(self, *words: str) -> None:
        self.ended(self.provision_command(*words))

    def provision_command(self, *words: str) -> list[str]:
        host = f"{self.instance.user}@{self.instance.host}:{self.instance.port}"
        where = ["--host", host, "--key", str(self.instance.key_path), "--workspace", str(self.there)]
        return [PROVISION, "copy", *where, "--quiet", *words]

    def scp(self, *words: str) -> None:
        self.ended(["scp", "-q", "-r", "-p", "-P", str(self.instance.port), *self.ssh, *words])

    def rsync(self, *words: str) -> None:
        shell = " ".join(["ssh", "-p", str(self.instance.port), *self.ssh])
        self.ended(["rsync", "-a", "-S", "--partial", "-e", shell, *words])

    def ended(self, command: list[str]) -> None:
        subprocess.run(command, check=True, cwd=self.here, env=self.environment, stdout=subprocess.DEVNULL)

    def remote(self, path: str) -> str:
        return f"{self.login[0]}:{self.there}/{path}"

    def bare(self, count: int, *, sends: bool) -> float:
        """Seconds for *count* bytes over one channel, without the login."""
        return asyncio.run(self._bare(count, sends=sends))

    async def _bare(self, count: int, *, sends: bool) -> float:
        address = Instance(
            self.instance.host,
            port=self.instance.port,
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


def cut(bench: Bench, words: tuple[str, ...], target: Path, size: int) -> tuple[float, int]:
    """Kill a copy in its middle and do it again; the seconds of the second, and what had landed."""
    child = subprocess.Popen(bench.provision_command(*words), cwd=bench.here, env=bench.environment)
    while True:
        landed = max(
            (path.stat().st_size for path in target.parent.glob(f".{target.name}.*.part")), default=0
        )
        if landed > size // 2 or child.poll() is not None:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    return took(lambda: bench.provision(*words)), landed


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--bytes", type=size_bytes, default=2 * 10**9)
    options.add_argument("--rounds", type=int, default=1)
    chosen = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedInstance(Path(name) / "instance", server="sshd") as made,
    ):
        measure(Bench(Path(name), made), chosen.bytes // PIECE * PIECE, chosen.rounds)


def measure(bench: Bench, size: int, rounds: int) -> None:
    big, small = bench.here / "big", bench.here / "small"
    with big.open("wb") as file:
        for _ in range(size // PIECE):
            file.write(random.randbytes(PIECE))
    small.mkdir()
    for number in range(SMALL_FILES):
        (small / f"{number:04}").write_bytes(random.randbytes(SMALL_BYTES))
    wanted = digest(big)
    bench.provision("big", ":warm")  # the agent is there from now on
    ways = ["bare channel", "provision", "scp", *(["rsync"] if shutil.which("rsync") else [])]
    print(
        f"one file of {size / 1e6:.0f} MB, {SMALL_FILES} files of {SMALL_BYTES} B; load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'way':14} {'there MB/s':>11} {'here MB/s':>11} {'small there s':>14} {'small here s':>13}")
    for way in ways:
        seconds = [one_round(bench, way, size, wanted) for _ in range(rounds)]
        there, home, small_there, small_home = (
            statistics.median(column) for column in zip(*seconds, strict=True)
        )
        rates = f"{size / there / 1e6:11.0f} {size / home / 1e6:11.0f}"
        times = f"{small_there:14.2f} {small_home:13.2f}" if way != "bare channel" else ""
        print(f"{way:14} {rates} {times}", flush=True)
    for words, target in (
        (("big", ":cut"), bench.there / "cut"),
        ((":big.there", "cut"), bench.here / "cut"),
    ):
        seconds_again, landed = cut(bench, words, target, size)
        assert digest(target) == wanted
        print(f"cut after {landed / 1e6:.0f} MB, `copy {' '.join(words)}` again: {seconds_again:.1f} s")


def one_round(bench: Bench, way: str, size: int, wanted: str) -> tuple[float, float, float, float]:
    for path in (bench.there / "big.there", bench.here / "big.home"):
        path.unlink(missing_ok=True)
    for folder in (bench.there / "small", bench.here / "small.home"):
        shutil.rmtree(folder, ignore_errors=True)
    if way == "bare channel":
        return bench.bare(size, sends=True), bench.bare(size, sends=False), 0.0, 0.0
    remote = bench.remote
    if way == "provision":
        there = took(lambda: bench.provision("big", ":big.there"))
        home = took(lambda: bench.provision(":big.there", "big.home"))
        small_there = took(lambda: bench.provision("small", ":small"))
        small_home = took(lambda: bench.provision(":small", "small.home"))
    else:
        run = bench.scp if way == "scp" else bench.rsync
        there = took(lambda: run("big", remote("big.there")))
        home = took(lambda: run(remote("big.there"), "big.home"))
        slash = "/" if way == "rsync" else ""
        small_there = took(lambda: run(f"small{slash}", remote("small")))
        small_home = took(lambda: run(f"{remote('small')}{slash}", "small.home"))
    assert digest(bench.there / "big.there") == digest(bench.here / "big.home") == wanted, way
    assert len(list((bench.here / "small.home").iterdir())) == SMALL_FILES, way
    return there, home, small_there, small_home


if __name__ == "__main__":
    main()
