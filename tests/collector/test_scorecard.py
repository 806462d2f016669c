"""Scorecards: what an instance's runs say about the machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from provision_collector.instance import Instance
from provision_collector.pool import scorecard
from provision_collector.run.registry import RunFiles
from provision_collector.storage import FileLock

MACHINE = Instance("203.0.113.7", port=2222, instance_id="../i 7")


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def events(folder: Path, *told: dict[str, Any]) -> RunFiles:
    files = RunFiles(str(folder / "r"))
    files.events.write_text(
        "".join(
            json.dumps(
                {"format": 1, "run": "r", "seq": seq, "ts": f"2026-01-01T00:00:{e.pop('at'):02d}.000Z", **e}
            )
            + "\n"
            for seq, e in enumerate(told, 1)
        )
    )
    return files


def outcome(run: str, verdict: str = "complete", usable: float | None = 30.0) -> dict[str, Any]:
    return {"run": run, "verdict": verdict, "usable_after_s": usable, "reconnects": 2}


def download(what: str, item: str, at: int, **more: Any) -> dict[str, Any]:
    return {"event": f"download_{what}", "item": item, "at": at, **more}


def test_files_that_came_at_the_same_time_share_the_line(tmp_path: Path) -> None:
    told = events(
        tmp_path,
        download("started", "a", 0, url="https://one.example/a"),
        download("started", "b", 0, url="https://one.example/b"),
        download("stalled", "b", 3),
        download("finished", "a", 10, bytes=600),
        download("finished", "b", 10, bytes=400),
        download("started", "c", 20, url="https://dead.example/c"),
        download("switched", "c", 22, url="https://two.example/c"),
        download("finished", "c", 25, bytes=50),
    )
    scorecard.record(MACHINE, told, outcome("r1"))

    card = asdict(scorecard.scorecards()[0])

    assert card["sources"] == {
        "one.example": {"bytes": 1000, "bytes_per_s": 100},
        "two.example": {"bytes": 50, "bytes_per_s": 10},
    }
    assert (card["stalls"], card["reconnects"], card["usable_after_s"]) == (1, 2, 30.0)


def test_a_run_counts_once_and_only_if_it_says_something_about_the_machine(tmp_path: Path) -> None:
    told = events(tmp_path)
    for run, verdict in (("r1", "failed"), ("r1", "complete"), ("r2", "cancelled"), ("r3", "timeout")):
        scorecard.record(MACHINE, told, outcome(run, verdict))

    assert scorecard.scorecards()[0].verdicts == {"complete": 1, "timeout": 1}


def test_what_was_measured_for_require_is_kept_of_each_figure_the_newest(tmp_path: Path) -> None:
    for run, figures in (
        (
            "r1",
            {"line_bytes_per_s": 9_000_000, "line_host": "one.example", "disk_write_bytes_per_s": 70_000_000},
        ),
        ("r2", {"line_bytes_per_s": 2_000_000, "line_host": "two.example", "gpu_errors": ["Xid 79"]}),
    ):
        told = events(tmp_path, {"event": "instance_measured", "at": 1, "duration_s": 2.5, **figures})
        scorecard.record(MACHINE, told, outcome(run, "failed", None))

    assert scorecard.scorecards()[0].measured == {
        "line_bytes_per_s": 2_000_000,
        "line_host": "two.example",
        "disk_write_bytes_per_s": 70_000_000,
        "gpu_errors": ["Xid 79"],
    }


def test_only_the_newest_runs_are_kept(tmp_path: Path) -> None:
    told = events(tmp_path)
    for number in range(scorecard.KEPT_RUNS + 5):
        scorecard.record(MACHINE, told, outcome(f"r{number}"))

    assert scorecard.scorecards()[0].runs == scorecard.KEPT_RUNS


def test_a_strange_instance_id_stays_in_its_folder_and_can_be_forgotten(tmp_path: Path) -> None:
    scorecard.record(MACHINE, RunFiles(str(tmp_path / "none")), outcome("r1"))

    files = [path for path in tmp_path.rglob("*.json") if path.is_file()]
    assert [path.parent.name for path in files] == ["hosts"]
    assert scorecard.scorecard("../i 7") is not None
    assert scorecard.forget("../i 7")
    assert not scorecard.forget("../i 7")
    assert scorecard.scorecards() == []


def test_a_scorecard_that_cannot_be_written_changes_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorecard, "FileLock", partial(FileLock, wait_s=0))
    folder = tmp_path / "state" / "provision" / "hosts"
    with FileLock(folder / "lock"):
        scorecard.record(MACHINE, events(tmp_path), outcome("r1"))

    assert scorecard.scorecards() == []
    scorecard.record(MACHINE, events(tmp_path), outcome("r1"))
    assert len(scorecard.scorecards()) == 1
