"""How fast are the downloads, next to the tools that people use? On this machine, over loopback.

Each mode has a server process of its own; the peers take turns in a rotating order; after each run every file's
hash is checked (of the peers only `provision` and `aria2c --checksum` have done so themselves). Read the ratios,
which are medians of the ratios within each round: the seconds are those of this machine.

    python benchmarks/downloads.py            all modes, about ten minutes on two quiet cores
    python benchmarks/downloads.py --quick    one round with small files, to see that it runs
    python benchmarks/downloads.py --published    what docs/BENCHMARKS.md has: 2 GiB, five rounds; an hour and a half
    python benchmarks/downloads.py --published --mode plain --mode tls    a piece of it, see MODES; say --rounds for less

Peers that are missing are said and left out: `apt install aria2 curl wget axel`; hf with hf_xet, rclone and s5cmd are
installed for the run. With 64 connections in the capped modes "peak MB" is what so many need.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from downloads_peers import BUCKET, HUB_REPO, ROOT, Job, Measured, Peer, install_tools, missing, peers, run

MIB = 1 << 20
CAP = ["--bytes-per-s", str(20 * MIB)]
LINE = 200 * MIB
EQUAL = [128] * 8
SMALL = [17]
MIXED = [8, 420, 16, 64, 200, 24, 128, 12, 330, 48, 96, 150, 32, 72]
"""MiB, in the order of a plan that nobody has sorted."""


class Mode(NamedTuple):
    """What is served, and how."""

    title: str
    sizes_mib: list[int]
    rounds: int
    server: list[str]
    is_tls: bool = False
    line_bytes_per_s: int | None = None
    """What all connections together can bring, where the server knows."""
    rtt_s: float | None = None
    """The line is a relay in front of the server, and so long."""
    only: tuple[str, ...] = ()
    """Peers whose name begins so; none: all."""
    is_on_disk: bool = False
    """Files go to a disk, and the wall time holds the sync; compared with `dd` of the same bytes."""


SHAPED = [(25, 0.03), (25, 0.15), (125, 0.03), (125, 0.15), (300, 0.03), (300, 0.15)]
"""MB per second, and seconds of a round trip."""
LINE_PEERS = ("aria2c", "curl", "provision", "rclone")
"""What takes part on the shaped lines: there the line is the limit, and each run takes up to a minute."""
FAULT_PEERS, DISK_PEERS = ("aria2c -x8", "provision"), ("dd", "aria2c", "curl", "provision")
SLOW_ONE = json.dumps({"bytes_per_s": MIB, "min_length": MIB, "times": 1})
RESETS = json.dumps({"reset_after": 4 * MIB, "times": 5})
"""Of each of eight files."""
MODES = {
    "plain": Mode("Plain HTTP", EQUAL, 5, []),
    "tls": Mode("TLS", EQUAL, 5, [], is_tls=True),
    "one": Mode("One file, plain", [1024], 3, []),
    "capped": Mode("20 MiB/s per connection", EQUAL, 3, CAP),
    "latency": Mode(
        "20 MiB/s per connection, 250 ms to each answer and 100 ms to connect",
        EQUAL,
        3,
        [*CAP, "--latency-s", "0.25", "--connect-s", "0.1"],
    ),
    "mixed": Mode(
        f"Files of many sizes, 20 MiB/s per connection on a line of {LINE // MIB} MiB/s",
        MIXED,
        3,
        [*CAP, "--line-bytes-per-s", str(LINE)],
        line_bytes_per_s=LINE,
    ),
    "small": Mode(
        "18 MB on a line of 1.2 MB/s", SMALL, 1, ["--line-bytes-per-s", "1200000"], line_bytes_per_s=1_200_000
    ),
    "small-capped": Mode("18 MB at 1.2 MB/s per connection", SMALL, 1, ["--bytes-per-s", "1200000"]),
    "disk": Mode("Plain HTTP to a disk, with sync", EQUAL, 3, [], only=DISK_PEERS, is_on_disk=True),
    "even": Mode("One file, 20 MiB/s per connection", [1024], 3, CAP, only=FAULT_PEERS),
    "slow-one": Mode(
        "And one connection of all at a twentieth", [1024], 3, [*CAP, "--fault", SLOW_ONE], only=FAULT_PEERS
    ),
    "even-many": Mode("Eight files, 20 MiB/s per connection", EQUAL, 3, CAP, only=FAULT_PEERS),
    "resets": Mode(
        "And 40 connections are reset after 4 MiB", EQUAL, 3, [*CAP, "--fault", RESETS], only=FAULT_PEERS
    ),
    "fragile": Mode(
        "A host that stands 24 connections of 20 MiB/s", EQUAL, 3, [*CAP, "--stands", "24"], only=FAULT_PEERS
    ),
    **{
        f"line-{mb}-{int(rtt_s * 1000)}": Mode(
            f"A line of {mb} MB/s in all, {rtt_s * 1000:.0f} ms away, TLS",
            MIXED,
            1 if mb < 100 else 3,
            [],
            is_tls=True,
            line_bytes_per_s=mb * 10**6,
            rtt_s=rtt_s,
        )
        for mb, rtt_s in SHAPED
    },
}


class Served(NamedTuple):
    """A server that runs."""

    root: str
    arm: Callable[[], object]
    """Have its faults happen again."""


@contextmanager
def served(folder: Path, certificate: str, mode: Mode) -> Iterator[Served]:
    """A server process."""
    argv = [
        sys.executable,
        "-m",
        "harness.file_server",
        "--directory",
        str(folder),
        "--hub",
        HUB_REPO,
        "--bucket",
        BUCKET,
        *mode.server,
    ]
    argv += ["--certificate", certificate] if mode.is_tls else []
    with subprocess.Popen(argv, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None and server.stdout is not None
        ours, its = server.stdin, server.stdout
        port = json.loads(its.readline())["port"]

        def arm() -> None:
            ours.write(b"\n")
            ours.flush()
            its.readline()

        with relayed(mode, port) as port:
            yield Served(f"{'https' if mode.is_tls else 'http'}://127.0.0.1:{port}", arm)
        server.stdin.close()
        server.wait(timeout=10)


@contextmanager
def relayed(mode: Mode, port: int) -> Iterator[int]:
    """The line in front of the server, if there is one; yields the port to speak to."""
    if mode.rtt_s is None:
        yield port
        return
    argv = [sys.executable, str(ROOT / "benchmarks" / "downloads_line.py"), "--to", str(port)]
    argv += ["--bytes-per-s", str(mode.line_bytes_per_s), "--rtt-s", str(mode.rtt_s)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as line:
        assert line.stdin is not None and line.stdout is not None
        yield int(json.loads(line.stdout.readline())["port"])
        line.stdin.close()
        line.wait(timeout=10)


def measure(
    mode: Mode, chosen: list[Peer], rounds: int, work: Path, disk: Path, scale: float
) -> dict[str, list[Measured]]:
    """Let every peer fetch all files, in turn, *rounds* times."""
    certificate = str(work / "certificate.pem")
    hashes = make_files(work / "files", [max(1, int(size * scale)) for size in mode.sizes_mib])
    results: dict[str, list[Measured]] = {peer.name: [] for peer in chosen}
    folder = (disk if mode.is_on_disk else work) / "out"
    with served(work / "files", certificate, mode) as server:
        job = Job(server.root, hashes, certificate, str(work / "files"))
        for turn in range(rounds):
            for peer in chosen[turn % len(chosen) :] + chosen[: turn % len(chosen)]:
                if turn and peer.is_slow_when_capped and mode.server:
                    continue
                folder.mkdir()
                os.chdir(folder)
                server.arm()
                results[peer.name].append(run(peer, job, is_synced=mode.is_on_disk))
                check(folder, hashes)
                os.chdir(work)
                shutil.rmtree(folder)
                if mode.is_on_disk:
                    os.sync()
    return results


def takes_part(peer: Peer, mode: Mode) -> bool:
    """Is *peer* measured in *mode*?"""
    if mode.only:
        return peer.name.startswith(mode.only)
    is_here = mode.rtt_s is None or peer.name.startswith(LINE_PEERS)
    return is_here and not peer.name.startswith("dd")


def check(folder: Path, hashes: dict[str, str]) -> None:
    for name, sha256 in hashes.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise SystemExit(f"{name} did not arrive right")


def make_files(folder: Path, sizes_mib: list[int]) -> dict[str, str]:
    """Files of these sizes in *folder*, which is emptied; their hashes."""
    from harness.content import Content

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    hashes = {}
    for number, size in enumerate(sizes_mib):
        content = Content(size * MIB, seed=number)
        with (folder / f"{number}.bin").open("wb") as file:
            while file.tell() < content.size:
                file.write(content.read(file.tell(), MIB))
        hashes[f"{number}.bin"] = content.sha256
    return hashes


def table(mode: Mode, results: dict[str, list[Measured]], sizes_bytes: list[int]) -> str:
    """Medians, and as ratios to the first peer."""
    total_bytes, (least, *_, most) = sum(sizes_bytes), sorted([*sizes_bytes, *sizes_bytes])
    each = f"{least // MIB}" if least == most else f"{least // MIB} to {most // MIB}"
    lines = [f"### {mode.title}: {len(sizes_bytes)} × {each} MiB", ""]
    if mode.line_bytes_per_s:
        lines += [f"All bytes ÷ the line: {total_bytes / mode.line_bytes_per_s:.2f} s.", ""]
    lines += [
        "| | runs | wall s | × BASE | CPU s/GB | × BASE | peak MB | × BASE | cores |",
        "|---|" + "---:|" * 8,
    ]
    first, base = next(iter(results.items()))
    lines[-2] = lines[-2].replace("BASE", first.split()[0].rstrip(","))
    for name, runs in results.items():
        cells = [str(len(runs))]
        for field, unit in (("wall_s", 1.0), ("cpu_s", total_bytes / 1e9), ("rss_bytes", 1e6)):
            values = [getattr(each, field) for each in runs]
            ratios = [
                value / getattr(other, field) for value, other in zip(values, base, strict=False)
            ]  # fewer rounds, perhaps
            digits = 0 if field == "rss_bytes" else 2
            cells += [f"{statistics.median(values) / unit:.{digits}f}", f"{statistics.median(ratios):.2f}"]
        cells.append(f"{statistics.median(each.cpu_s / each.wall_s for each in runs):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, files an eighth as large")
    parser.add_argument("--published", action="store_true", help="2 GiB and five rounds; lines as they are")
    parser.add_argument("--rounds", type=int, help="in every mode")
    parser.add_argument("--scale", type=float, default=1.0, help="of the files' sizes")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="repeatable; default: all")
    parser.add_argument("--only", action="append", help="peers whose name contains this; repeatable")
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    parser.add_argument(
        "--disk", help="where the mode `disk` writes; default: the folder for temporary files"
    )
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from harness.file_server import make_certificate

    scale = options.scale * (0.125 if options.quick else 1.0)
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as folder,
        tempfile.TemporaryDirectory(dir=options.disk) as disk,
        tempfile.TemporaryDirectory() as environment,
    ):
        work = Path(folder)
        make_certificate(folder, "127.0.0.1")
        install_tools(Path(environment) / "tools")
        base, *others = peers(Path(environment) / "tools")
        if missing(base):
            raise SystemExit("aria2c is what all are compared with: install it first (`apt install aria2`)")
        for peer in others:
            print(missing(peer) or "", end="\n" if missing(peer) else "", file=sys.stderr)
        words = options.only or [""]
        chosen = [base, *(p for p in others if not missing(p) and any(word in p.name for word in words))]
        print(
            f"`python benchmarks/downloads.py {' '.join(sys.argv[1:])}`, load {os.getloadavg()[0]:.1f} before\n"
        )
        for name in options.mode or MODES:
            mode = MODES[name]
            is_line = mode.line_bytes_per_s is not None or mode.sizes_mib == SMALL
            rounds = options.rounds or (1 if options.quick else mode.rounds)
            if options.published and not is_line:
                rounds = options.rounds or 5
            factor = scale * (2.0 if options.published and not is_line else 1.0)
            taking_part = [peer for peer in chosen if takes_part(peer, mode)]
            taking_part.sort(key=lambda peer: mode.is_on_disk and not peer.name.startswith("dd"))
            results = measure(mode, taking_part, rounds, work, Path(disk), factor)
            sizes_bytes = [path.stat().st_size for path in (work / "files").iterdir()]
            print(table(mode, results, sizes_bytes), flush=True)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
