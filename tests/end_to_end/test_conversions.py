"""What people have already, converted and run: profiles of the corpus reach `complete` against stand-ins of all that they name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness.corpus import entries
from harness.corpus.measure import measured
from harness.corpus.stand_in import StandIn

SAMPLE = ("other_interface", "manifest_gated", "quantized_webp")


def ended(names: Sequence[str], folder: Path, *, at_once: int) -> dict[str, object]:
    """The verdict of each entry's run."""
    (folder / "files").mkdir()
    (folder / "runs").mkdir()
    results = [measured(entry, folder / "files") for entry in entries() if entry.name in names]
    with (
        StandIn(folder / "runs", results, Path(sys.executable).parent) as stand_in,
        ThreadPoolExecutor(at_once) as pool,
    ):
        outcomes = pool.map(stand_in.up, results)
        return {
            result.entry.name: outcome["verdict"] for result, outcome in zip(results, outcomes, strict=True)
        }


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_script_a_manifest_and_a_picture_are_converted_and_run_to_their_end(tmp_path: Path) -> None:
    assert ended(SAMPLE, tmp_path, at_once=3) == dict.fromkeys(SAMPLE, "complete")


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_three_quarters_of_the_corpus_reach_complete(tmp_path: Path) -> None:
    verdicts = ended([entry.name for entry in entries()], tmp_path, at_once=3)
    others = {name: verdict for name, verdict in verdicts.items() if verdict != "complete"}

    assert len(verdicts) == 130
    assert len(others) <= 130 / 4, others
