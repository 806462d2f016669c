"""How soon and how fast a remote log is here: `provision collect`, `ssh host tail -F`, and polling every 30 s.

    python benchmarks/follow.py [--seconds 75] [--backlog-mb 300] [--hosts 200]

All three follow logs of one writer behind one real sshd on loopback, at the same time, each into a file of its own; one
ruler measures them: a line carries the moment it was written, and a watcher here notes when it is in the local file.
Prints Markdown tables. The peers lose and repeat lines when something breaks; this measures speed only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provision_agent.tail.inotify import Inotify
from provision_collector.collect.collect import CollectOrder, LogToCollect, collect
from provision_collector.demo.instance import EmbeddedInstance
from provision_collector.instance import Instance

PROVISION = str(Path(sys.executable).with_name("provision"))
LINES_PER_S = 50
POLL_S = 30.0

WRITER = """
import sys, time
paths, per_s, seconds = sys.argv[3:], float(sys.argv[1]), float(sys.argv[2])
files = [open(path, "ab", buffering=0) for path in paths]
end, due, number = time.time() + seconds, time.time(), 0
while time.time() < end:
    for at, file in enumerate(files):
        file.write(b"%d a line of usual length, as scripts write them, number %d\\n" % (time.time_ns(), number))
        wait_s = due + (at + 1) / len(files) / per_s - time.time()
        if wait_s > 0: time.sleep(wait_s)
    number, due = number + 1, due + 1 / per_s
"""


class Ruler(threading.Thread):
    """Notes when each line stands in a local file."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__(daemon=True)
        self._watch = Inotify()
        self._files = {path: os.open(path, os.O_RDONLY | os.O_CREAT) for path in paths}
        for descriptor in self._files.values():
            self._watch.watch_file(descriptor)
        self._read = dict.fromkeys(paths, 0)
        self._rest = dict.fromkeys(paths, b"")
        self.late_ms: dict[Path, list[float]] = {path: [] for path in paths}
        self._ends = False

    def run(self) -> None:
        while not self._ends:
            select.select([self._watch.descriptor], [], [], 0.5)
            self._watch.drain()
            for path, descriptor in self._files.items():
                self._look(path, descriptor)

    def _look(self, path: Path, descriptor: int) -> None:
        data = os.pread(descriptor, 1 << 20, self._read[path])
        now = time.time_ns()
        self._read[path] += len(data)
        *lines, self._rest[path] = (self._rest[path] + data).split(b"\n") if data else [self._rest[path]]
        self.late_ms[path] += [(now - int(line.split()[0])) / 1e6 for line in lines]

    def stop(self) -> None:
        self._ends = True
        self.join()


def percentiles(values: list[float]) -> str:
    if len(values) < 2:
        return "| – | – | – |"
    cuts = statistics.quantiles(values, n=100)
    return f"| {statistics.median(values):,.1f} | {cuts[98]:,.1f} | {max(values):,.1f} |"


class Bench:
    """One instance, and the three ways to its logs."""

    def __init__(self, root: Path, instance: EmbeddedInstance) -> None:
        self.root = root
        self.instance = instance
        self.known_hosts = root / "known_hosts"
        key = (
            (root / "instance" / "host_key.pub").read_text()
            if (root / "instance" / "host_key.pub").exists()
            else None
        )
        if key:
            self.known_hosts.write_text(f"[{instance.host}]:{instance.port} {key}")

    def ssh(self, command: str) -> list[str]:
        instance = self.instance
        return [
            "ssh", "-F", "none", "-p", str(instance.port), "-i", str(instance.key_path), "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "LogLevel=ERROR",
            f"{instance.user}@{instance.host}", command,
        ]  # fmt: skip

    def collect(self, remote: Path, output: Path) -> subprocess.Popen[bytes]:
        instance = self.instance
        return subprocess.Popen(
            [
                PROVISION, "collect", "--host", f"{instance.user}@{instance.host}:{instance.port}",
                "--key", str(instance.key_path), "--remote-log", str(remote), "--output", str(output), "--json",
            ],
            env={**os.environ, "HOME": str(self.root), "XDG_STATE_HOME": str(self.root / "state")},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def tail(self, remote: Path, output: Path) -> subprocess.Popen[bytes]:
        with output.open("ab") as file:
            return subprocess.Popen(
                self.ssh(f"tail -c +1 -F {remote}"), stdout=file, stdin=subprocess.DEVNULL
            )

    def poll(self, remote: Path, output: Path, ends: threading.Event) -> None:
        """As log collectors do that count lines: every 30 s what lies behind the last one."""
        count = 0
        while True:
            done = subprocess.run(self.ssh(f"tail -n +{count + 1} {remote}"), capture_output=True, timeout=60)
            count += done.stdout.count(b"\n")
            with output.open("ab") as file:
                file.write(done.stdout)
            if ends.wait(POLL_S):
                return


def latency(bench: Bench, seconds: float) -> None:
    names = ["provision collect", "ssh tail -F", "polling every 30 s"]
    remotes = [bench.instance.workspace / f"latency{number}.log" for number in range(3)]
    locals_ = [bench.root / f"latency{number}.mirror" for number in range(3)]
    for remote in remotes:
        remote.write_bytes(b"%d the first line\n" % time.time_ns())
    ruler = Ruler(locals_)
    ruler.start()
    ends = threading.Event()
    poller = threading.Thread(target=bench.poll, args=(remotes[2], locals_[2], ends))
    children = [bench.collect(remotes[0], locals_[0]), bench.tail(remotes[1], locals_[1])]
    poller.start()
    while not all(path.stat().st_size for path in locals_):  # connected, and at the end of what was there
        time.sleep(0.05)
    subprocess.run(
        [sys.executable, "-c", WRITER, str(LINES_PER_S), str(seconds), *map(str, remotes)], check=True
    )
    time.sleep(1)
    ends.set()
    poller.join()
    ruler.stop()
    for child in children:
        child.terminate()
        child.wait()
    print(f"\nFrom a written line to the local file, {LINES_PER_S} lines/s for {seconds:.0f} s, ms:\n")
    print("| | p50 | p99 | max | lines |\n|---|---|---|---|---|")
    for name, path in zip(names, locals_, strict=True):
        late_ms = ruler.late_ms[path][1:]
        print(f"| {name} {percentiles(late_ms)} {len(late_ms)} |")


def backlog(bench: Bench, megabytes: int) -> None:
    remote = bench.instance.workspace / "backlog.log"
    with remote.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(500_000).hex().encode()[:999_999] + b"\n")
    size = remote.stat().st_size
    print(f"\nA backlog of {size / 1e6:.0f} MB, from the first local byte to the last:\n")
    print("| | MB/s | CPU s here | equal |\n|---|---|---|---|")
    for name, start in (("provision collect", bench.collect), ("ssh tail -F", bench.tail)):
        output = bench.root / f"backlog.{name.split()[0]}"
        child = start(remote, output)
        while not output.exists() or output.stat().st_size == 0:
            time.sleep(0.001)
        began, first = time.monotonic(), output.stat().st_size
        while output.stat().st_size < size:
            time.sleep(0.001)
        took_s = time.monotonic() - began
        cpu_s = sum(
            map(int, Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        ) / os.sysconf("SC_CLK_TCK")
        child.terminate()
        child.wait()
        is_equal = subprocess.run(["cmp", "-s", str(remote), str(output)], check=False).returncode == 0
        print(
            f"| {name} | {(size - first) / took_s / 1e6:.0f} | {cpu_s:.1f} | {'yes' if is_equal else 'NO'} |"
        )
        output.unlink()
    remote.unlink()


@contextmanager
def enough_inotify(hosts: int) -> Iterator[None]:
    """All "hosts" share this machine's limit of inotify instances; a real one has it for itself."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    before = limit.read_text()
    if int(before) < 2 * hosts + 100:
        try:
            limit.write_text(str(2 * hosts + 100))
        except OSError:
            sys.exit(
                f"{limit} is {before.strip()}: too few for {hosts} followers on one machine; raise it, or take fewer `--hosts`"
            )
    try:
        yield
    finally:
        if limit.read_text() != before:
            limit.write_text(before)


def many(bench: Bench, hosts: int) -> None:
    """In a process of its own, so that its memory is its own."""
    facts = [
        str(bench.root),
        str(bench.instance.port),
        bench.instance.user,
        str(bench.instance.key_path),
        str(hosts),
    ]
    done = subprocess.run(
        [sys.executable, __file__, "--many", *facts],
        env={**os.environ, "XDG_STATE_HOME": str(bench.root / "state"), "HOME": str(bench.root)},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout)
    per_host_kb = (told["rss_mb"] - told["one_mb"]) * 1000 / (hosts - 1)
    print(f"\n{hosts} hosts in one process, 1 line/s each:\n")
    print(
        "| hosts | all connected after | RSS | each further host | idle CPU of one core | p50 ms | p99 ms | loop held up for ms | exact |\n"
        "|---|---|---|---|---|---|---|---|---|\n| 1 | | {one:.0f} MB | | | | | | |".format(one=told["one_mb"])
    )
    print(
        f"| {hosts} | {told['connect_s']:.1f} s | {told['rss_mb']:.0f} MB | {per_host_kb:.0f} kB | {told['idle_cpu']:.1%} "
        f"| {told['p50']:.1f} | {told['p99']:.1f} | {told['held_up_ms']:.0f} | {told['exact']}/{hosts} |"
    )
    print(
        f"| 1000 (derived: one + 999 × each further) | | {told['one_mb'] + 0.999 * per_host_kb:.0f} MB | | {told['idle_cpu'] / hosts * 1000:.0%} | | | | |"
    )


async def _many(root: Path, port: int, user: str, key: str, hosts: int) -> None:
    folders = [root / "instance" / "workspace" / f"host{number}" for number in range(hosts)]
    pairs = [(folder / "run.log", root / f"many{number}.mirror") for number, folder in enumerate(folders)]
    for folder, (remote, _) in zip(folders, pairs, strict=True):
        folder.mkdir()
        remote.write_bytes(b"%d the first line\n" % time.time_ns())
    instance = Instance("127.0.0.1", port=port, user=user, key=key)
    leave = asyncio.Event()

    async def connected(some: list[tuple[Path, Path]]) -> list[asyncio.Task[Any]]:
        orders = [CollectOrder((LogToCollect(str(remote), local),)) for remote, local in some]
        tasks = [
            asyncio.create_task(collect(instance, order, on_event=lambda _: None, leave=leave))
            for order in orders
        ]
        while not all(local.exists() and local.stat().st_size for _, local in some):
            await asyncio.sleep(0.05)
        return tasks

    work = await connected(pairs[:1])
    await asyncio.sleep(1)
    one_mb, began = _rss_mb(), time.monotonic()
    work += await connected(pairs[1:])
    connect_s = time.monotonic() - began
    await asyncio.sleep(3)
    cpu_s, at = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), time.monotonic()
    await asyncio.sleep(15)
    idle_cpu = (sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - cpu_s) / (time.monotonic() - at)
    ruler = Ruler([local for _, local in pairs])
    ruler.late_ms.clear()
    ruler.late_ms.update({local: [] for _, local in pairs})
    ruler.start()
    held_up_ms: list[float] = []
    watching = asyncio.create_task(_watch_loop(held_up_ms))
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, "1", "20", *(str(remote) for remote, _ in pairs)
    )
    await writer.wait()
    await asyncio.sleep(1)
    rss_mb = _rss_mb()
    watching.cancel()
    await asyncio.to_thread(ruler.stop)
    leave.set()
    await asyncio.gather(*work)
    late = [value for values in ruler.late_ms.values() for value in values[1:]]
    exact = sum(remote.read_bytes() == local.read_bytes() for remote, local in pairs)
    cuts = statistics.quantiles(late, n=100)
    print(json.dumps({
        "one_mb": one_mb, "held_up_ms": max(held_up_ms), "rss_mb": rss_mb, "connect_s": connect_s, "idle_cpu": idle_cpu,
        "p50": statistics.median(late), "p99": cuts[98], "exact": exact,
    }))  # fmt: skip


async def _watch_loop(held_up_ms: list[float]) -> None:
    """How much later than asked for the event loop comes back: what one host may cost another."""
    while True:
        asked = time.monotonic()
        await asyncio.sleep(0.01)
        held_up_ms.append((time.monotonic() - asked - 0.01) * 1000)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=75.0)
    parser.add_argument("--backlog-mb", type=int, default=300)
    parser.add_argument("--hosts", type=int, default=200)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="provision-follow-"))
    try:
        with EmbeddedInstance(root / "instance", server="sshd") as instance:
            bench = Bench(root, instance)
            print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
            if options.seconds:
                latency(bench, options.seconds)
            if options.backlog_mb:
                backlog(bench, options.backlog_mb)
            if options.hosts:
                with enough_inotify(options.hosts):
                    many(bench, options.hosts)
            print(f"\nload average after: {os.getloadavg()[0]:.1f}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--many"]:
        _, _, where, port_, user_, key_, hosts_ = sys.argv
        asyncio.run(_many(Path(where), int(port_), user_, key_, int(hosts_)))
    else:
        main()
