"""What the converters make of the corpus of `tests/harness/corpus`: the table of docs/BENCHMARKS.md, and what is left open.

python benchmarks/conversions.py            # the conversions: some seconds
python benchmarks/conversions.py --up       # and `provision up` of every profile against stand-ins: half an hour
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

if TYPE_CHECKING:
    from harness.corpus.measure import Result


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--up", action="store_true", help="run every profile against stand-ins")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (2)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="an entry or a kind; repeatable"
    )
    arguments = parser.parse_args()
    from harness.corpus import entries
    from harness.corpus.measure import measured, report

    chosen = [
        each for each in entries() if not arguments.only or {each.name, each.kind} & set(arguments.only)
    ]
    with tempfile.TemporaryDirectory() as folder:
        results = [measured(entry, Path(folder)) for entry in chosen]
    print(f"load {os.getloadavg()[0]:.1f}\n\n{report(results)}", flush=True)
    if arguments.up:
        _run(results, arguments.jobs)


def _run(results: Sequence[Result], jobs: int) -> None:
    from harness.corpus.stand_in import StandIn

    ended: Counter[tuple[str, bool]] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="corpus") as folder,
        StandIn(Path(folder), results, Path(sys.executable).parent) as stand_in,
        ThreadPoolExecutor(jobs) as pool,
    ):
        for result, outcome in zip(results, pool.map(stand_in.up, results), strict=True):
            verdict = str(outcome.get("verdict"))
            ended[result.entry.kind, verdict == "complete"] += 1
            if verdict != "complete":
                print(f"{result.entry.name}: {verdict}: {str(outcome.get('errors'))[:600]}", flush=True)
    print("\n| | profiles that reach `complete` |\n|---|---:|")
    for kind in dict.fromkeys(result.entry.kind for result in results):
        print(f"| {kind}s | {ended[kind, True]} of {ended[kind, True] + ended[kind, False]} |")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
