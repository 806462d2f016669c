"""How fast do models come out of a bucket, next to rclone and s5cmd? On this machine, over loopback, from a store that checks signatures.

All have the same keys; `provision` signs an address for each file first, which counts, and its engine fetches by them. The peers
take turns in a rotating order; after each run every file's hash is checked (only `provision` has done so itself). Read the ratios to
the faster of the others, which are medians of the ratios within each round.

    python benchmarks/buckets.py                8 x 256 MiB, five rounds, each connection at 20 MB/s and not
    python benchmarks/buckets.py --rounds 1 --mib 32    to see that it runs

rclone and s5cmd are installed for the run, unless `--tools` names a folder that has them.
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
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from downloads_peers import ROOT, Job, Measured, Peer, install_tools, missing, run

FILES = 8
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
}
KEY_NAMES = tuple(KEYS)
MODES = {"20 MB/s per connection": 20_000_000, "no cap": 0}
ENGINE = """
import json, sys
from pathlib import Path
from harness.downloads import Bench
from provision_agent.contract.buckets import SignedSource
from provision_agent.contract.plan import Download
from provision_agent.downloads.sources.signed import SIGNED
addresses, files = json.loads(sys.argv[1])
SIGNED.take([SignedSource(url, address) for url, address in addresses.items()])
bench = Bench(Path.cwd(), remaining_s=lambda: 600.0)
items = [Download(url=f"s3://models/{name}", path=name, sha256=sha256) for name, sha256 in files.items()]
engine = bench.engine(*items)
engine.preflight(begin=lambda: None)
engine.start()
engine.wait()
engine.stop()
sys.exit(any(result.state != "ok" for result in engine.results().values()))
"""


def peers(tools: Path) -> list[Peer]:
    """Those that take part, `provision` last."""
    rclone, s5cmd = (str(tools / "bin" / name) for name in ("rclone", "s5cmd"))
    return [
        Peer("rclone, four at once, 8 streams", rclone, lambda job: [rclone, *_rclone(job)]),
        Peer("s5cmd, as it is", s5cmd, lambda job: [s5cmd, *_s5cmd(job)]),
        Peer("s5cmd, eight parts of each", s5cmd, lambda job: [s5cmd, *_s5cmd(job, "--concurrency", "8")]),
        Peer("provision", sys.executable, lambda job: []),
    ]


def _rclone(job: Job) -> list[str]:
    at = [
        "--s3-provider",
        "Other",
        "--s3-endpoint",
        job.root,
        "--s3-env-auth",
        "--s3-region",
        "us-east-1",
        "--s3-list-version",
        "2",
    ]
    many = ["--transfers", "4", "--multi-thread-streams", "8", "--multi-thread-cutoff", "1M"]
    return ["copy", ":s3:models", ".", *at, *many, "--config", "/dev/null", "-q"]


def _s5cmd(job: Job, *options: str) -> list[str]:
    return ["--endpoint-url", job.root, "cp", *options, "s3://models/*", "."]


def signed(job: Job) -> tuple[dict[str, str], float]:
    """An address for each file, and the seconds that signing took, the store's answers with it."""
    from provision_agent.contract.buckets import BucketPlace, Buckets, BucketSource
    from provision_agent.contract.plan_parts import SecretRule
    from provision_collector.files.buckets import sign

    place = BucketPlace(endpoint=job.root, access_key=KEY_NAMES[0], secret_key=KEY_NAMES[1])
    sources = tuple(BucketSource(f"s3://models/{name}") for name in job.files)
    known = Buckets({"models": place}, tuple(SecretRule(name) for name in place.secrets), sources)
    began = time.monotonic()
    found = sign(known, KEYS, lives_s=3600)
    return {each.url: each.address for each in found}, time.monotonic() - began


def fetched(peer: Peer, job: Job) -> Measured:
    """What a run of *peer* took; of `provision`, with signing."""
    if peer.name != "provision":
        return run(peer, job)
    addresses, signing_s = signed(job)
    argv = [sys.executable, "-c", ENGINE, json.dumps([addresses, job.files])]
    done = run(peer._replace(argv=lambda job: argv), job)
    return done._replace(wall_s=done.wall_s + signing_s)


@contextmanager
def served(mib: int, bytes_per_s: int) -> Iterator[str]:
    """The store's endpoint."""
    argv = [sys.executable, "-m", "harness.s3_server", "--files", str(FILES), "--mib", str(mib)]
    argv += ["--bytes-per-s", str(bytes_per_s)]
    with subprocess.Popen(argv, cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def expected(mib: int) -> dict[str, str]:
    """Every file with its hash."""
    hashed = hashlib.sha256()
    for _ in range(mib):
        hashed.update(bytes(range(256)) * 4096)
    return {f"m{number}.bin": hashed.hexdigest() for number in range(FILES)}


def check(folder: Path, hashes: Mapping[str, str], who: str) -> None:
    """Ends the program when a file is not what it should be."""
    for name, wanted in hashes.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                raise SystemExit(f"{who}: {name} is wrong")


def measure(
    chosen: list[Peer], rounds: int, mib: int, bytes_per_s: int, work: Path
) -> dict[str, list[Measured]]:
    """Let every peer fetch all files, in turn."""
    hashes, folder = expected(mib), work / "out"
    results: dict[str, list[Measured]] = {peer.name: [] for peer in chosen}
    with served(mib, bytes_per_s) as endpoint:
        job = Job(endpoint, hashes, "")
        for turn in range(rounds):
            for peer in chosen[turn % len(chosen) :] + chosen[: turn % len(chosen)]:
                folder.mkdir()
                os.chdir(folder)
                results[peer.name].append(fetched(peer, job))
                check(folder, hashes, peer.name)
                os.chdir(work)
                shutil.rmtree(folder)
    return results


def table(title: str, results: Mapping[str, list[Measured]], mib: int) -> str:
    """Medians, and as ratios to the faster of the others in the same round."""
    rounds = range(len(results["provision"]))
    best = [min(runs[at].wall_s for name, runs in results.items() if name != "provision") for at in rounds]
    lines = [
        f"### {title}: {FILES} × {mib} MiB",
        "",
        "| | runs | wall s | × the faster one | CPU s |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, runs in results.items():
        ratio = statistics.median(each.wall_s / base for each, base in zip(runs, best, strict=True))
        wall, cpu = (
            statistics.median(getattr(each, field) for each in runs) for field in ("wall_s", "cpu_s")
        )
        lines.append(f"| {name} | {len(runs)} | {wall:.2f} | {ratio:.2f} | {cpu:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=256, help="of each file")
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    parser.add_argument("--tools", type=Path, help="an environment that has rclone and s5cmd in its `bin`")
    options = parser.parse_args()
    os.environ.update(KEYS, AWS_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true")
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, tempfile.TemporaryDirectory() as made:
        tools = options.tools or Path(made) / "tools"
        if options.tools is None:
            install_tools(tools)
        chosen = [peer for peer in peers(tools.absolute()) if not missing(peer)]
        for peer in peers(tools.absolute()):
            print(missing(peer) or "", end="\n" if missing(peer) else "", file=sys.stderr)
        for title, bytes_per_s in MODES.items():
            found = measure(chosen, options.rounds, options.mib, bytes_per_s, Path(folder))
            print(table(title, found, options.mib), flush=True)


if __name__ == "__main__":
    main()
