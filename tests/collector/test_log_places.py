"""Where a log is begun to be read: at its last lines, at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from provision_collector.cli.log_places import place_of_last, place_of_time, time_of

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def line(number: int) -> str:
    """Every fifth tells no time; some are longer than the blocks in which a log is read."""
    time = (BEGAN + timedelta(seconds=number // 3)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    long = "x" * (100_000 if number % 97 == 0 else number * 37 % 3000)
    return f"  more of it {long}\n" if number % 5 == 4 else f"{time} line {long}\n"


LINES = [line(number) for number in range(500)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "core.log"
    path.write_text("".join(LINES))
    return path


@pytest.mark.parametrize("count", [0, 1, 2, 99, 499, 500, 501])
def test_the_last_lines(log: Path, count: int) -> None:
    assert log.read_text()[place_of_last(log, count) :] == "".join(LINES[max(len(LINES) - count, 0) :])


def test_a_last_line_that_is_being_written_counts(log: Path) -> None:
    log.write_text(log.read_text() + "half")

    assert log.read_text()[place_of_last(log, 2) :] == LINES[-1] + "half"


def test_what_was_written_since(log: Path) -> None:
    for second in range(-1, 170):
        since = BEGAN + timedelta(seconds=second)
        text = since.isoformat()[:19]
        first = next(
            (at for at, line in enumerate(LINES) if line[:19] >= text and line[0] == "2"), len(LINES)
        )
        assert log.read_text()[place_of_time(log, since) :] == "".join(LINES[first:]), second


def test_a_time_as_people_write_it() -> None:
    now = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)

    assert time_of("10m", now) == now - timedelta(minutes=10)
    assert time_of("2026-11-26T03:20:00+01:00", now) == datetime(2026, 11, 26, 2, 20, tzinfo=UTC)
    assert time_of("03:20", now).astimezone().strftime("%H:%M") == "03:20"
    with pytest.raises(ValueError, match="write `10m`, `03:20`"):
        time_of("yesterday", now)
