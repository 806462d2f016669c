"""The table of a fleet fits every terminal, adds up, and says once what is alike."""

from __future__ import annotations

import pytest
from provision_collector.console.fleet_table import Ended, Row, ended_lines, fleet_lines, total_line
from provision_collector.console.progress import Progress
from rich.cells import cell_len


def moving(done: int, speed: float = 1e6, name: str = "203.0.113.7", state: str = "running") -> Row:
    progress = Progress(name, clock=lambda: 0.0)
    progress.take({"event": "connected", "from": "collector", "run": "r"})
    head = {"format": 2, "seq": 1, "ts": "2026-01-01T00:00:00.000Z", "run": "r", "level": "required"}
    file = {"item": "a.pth", "bytes": done, "total_bytes": 100_000_000, "bytes_per_s": speed}
    progress.take({**head, "event": "download_progress", **file})
    return Row(name, state, progress)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 300])
@pytest.mark.parametrize("height", [1, 3, 8, 40])
def test_it_fits_any_terminal(width: int, height: int) -> None:
    rows = [moving(number * 1_000_000, name=f"root@203.0.113.{number}:2222") for number in range(30)]

    lines = fleet_lines([*rows, Row("a", "failed", why="x" * 300)], width, height, 12.0)

    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width


def test_the_sum_has_bytes_speed_and_the_arrival_of_the_last_and_counts_what_is_done() -> None:
    rows = [moving(100_000_000, 0, state="complete"), moving(40_000_000, 1e6), moving(80_000_000, 2e6)]

    total = fleet_lines(rows, 120, 20, 0.0)[-1]

    assert "220/300 MB" in total
    assert "3.0 MB/s" in total
    assert "all there in 1 m 00 s, at " in total
    assert total_line(rows).startswith("2 running, 1 complete  220/300 MB  3.0 MB/s  all there in")


def test_what_many_have_alike_is_said_once() -> None:
    rows = [Row(f"host{number}", "waiting", why="waits for a turn at huggingface.co") for number in range(5)]

    lines = fleet_lines(rows, 80, 20, 0.0)

    assert sum("huggingface.co" in line for line in lines) == 1
    assert lines[-1] == "  5 × waits for a turn at huggingface.co"


def test_at_the_end_nothing_is_cut_and_narrow_terminals_get_rows_below_each_other() -> None:
    row = Ended(
        "203.0.113.7",
        "failed",
        "1",
        "",
        "37 s",
        "fix_profile",
        "20261126T073655-d92b23",
        "not_found a.pth " * 9,
    )

    for width in (None, 40, 60, 80, 120):
        text = " ".join("\n".join(ended_lines([row], width)).split())
        assert all(word in text for word in ("203.0.113.7", "fix_profile", "20261126T073655-d92b23")), width
        assert text.count("not_found a.pth") == 9
        assert width is None or max(map(cell_len, ended_lines([row], width))) <= width
