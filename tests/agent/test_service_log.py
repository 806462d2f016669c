"""A log of bounded size: what it keeps is the end of what was written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from provision_agent.services.log import BoundedLog, last_lines, said, set_previous_aside


def kept(path: Path) -> bytes:
    older = Path(f"{path}.1")
    return (older.read_bytes() if older.exists() else b"") + path.read_bytes()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_two_files_are_the_end_of_everything_that_was_written(seed: int, tmp_path: Path) -> None:
    path, chosen = tmp_path / "ui.log", random.Random(seed)
    log, written = BoundedLog(str(path), 1000), b""
    for number in range(300):
        piece = f"{number} {'x' * chosen.randint(0, 300)}".encode() + chosen.choice([b"\n", b"", b"\r\n"])
        log.write(piece)
        written += piece

        assert written.endswith(kept(path))
        assert path.stat().st_size <= 1000
    assert len(kept(path)) > 1000


def test_the_last_lines_reach_back_into_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "ui.log"
    log = BoundedLog(str(path), 40)
    for number in range(10):
        log.write(f"line {number}\n".encode())

    assert path.read_text() == "line 5\nline 6\nline 7\nline 8\nline 9\n"
    log.write(b"line 10\n")
    assert path.read_text() == "line 10\n"
    assert last_lines(str(path), 3) == ["line 8", "line 9", "line 10"]


def test_a_line_longer_than_the_bound_is_cut_between_the_files(tmp_path: Path) -> None:
    path = tmp_path / "ui.log"
    BoundedLog(str(path), 100).write(b"x" * 150)

    assert (len(kept(path)), path.stat().st_size) == (150, 50)


def test_another_start_of_the_program_goes_on_where_the_log_ends(tmp_path: Path) -> None:
    path = tmp_path / "ui.log"
    for word in (b"one\n", b"two\n"):
        BoundedLog(str(path), 100).write(word)

    assert path.read_text() == "one\ntwo\n"


def test_what_was_written_before_a_new_start_is_no_last_line_of_it(tmp_path: Path) -> None:
    path = tmp_path / "ui.log"
    BoundedLog(str(path), 10).write(b"before\nbefore\n")
    set_previous_aside(str(path))
    BoundedLog(str(path), 10).write(b"now\n")

    assert last_lines(str(path), 20) == ["now"]
    assert Path(f"{path}.previous").read_text() == "before\n"


def test_a_full_disk_costs_lines_and_raises_nothing() -> None:
    BoundedLog("/dev/full", 1 << 20).write(b"lost\n")


def test_what_was_said_is_counted_on_from_the_last_look(tmp_path: Path) -> None:
    path = tmp_path / "ui.log"
    log = BoundedLog(str(path), 60)
    first = said(str(path), "prompt")
    log.write(b"got prompt\nanother line\ngot pro")
    second = said(str(path), "prompt", first)
    log.write(b"mpt\n" + b"x" * 20 + b"\ngot prompt\n")  # the last line is in the next file

    assert Path(f"{path}.1").exists()
    assert [said(str(path), "prompt", since).times for since in (None, first, second)] == [3, 3, 3]
    assert (
        first.times,
        second.times,
        said(str(path), "prompt", said(str(path), "prompt", second)).times,
    ) == (0, 1, 3)


def test_a_log_that_left_the_last_look_behind_says_another_number(tmp_path: Path) -> None:
    path = tmp_path / "ui.log"
    log = BoundedLog(str(path), 20)
    log.write(b"got prompt\n")
    first = said(str(path), "prompt")
    log.write(b"0123456789\n" * 5)

    assert said(str(path), "prompt").times == 0
    assert said(str(path), "prompt", first).times != first.times
