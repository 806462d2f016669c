"""The line that `collect` shows on a terminal counts what really came."""

from __future__ import annotations

from pathlib import Path

from provision_collector.cli.collect_ticker import Arrivals


def test_lines_and_bytes_of_all_mirrors_are_counted_as_they_come(tmp_path: Path) -> None:
    first, second = tmp_path / "a.log", tmp_path / "b.log"
    arrivals = Arrivals([first, second], timeout_s=3600)
    arrivals.look()
    assert arrivals.words().startswith("0 lines, 0 B")

    first.write_bytes(b"one\ntwo\nthr")
    arrivals.look()
    first.write_bytes(b"one\ntwo\nthree\n")
    second.write_bytes(b"1\n")
    arrivals.look()

    assert (arrivals.lines, arrivals.bytes) == (4, 16)
    assert arrivals.words().startswith("4 lines, 16 B")
    assert arrivals.words().endswith("limit in 59 m")
