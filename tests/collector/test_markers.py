"""The marker matcher: the right line, however its bytes were cut, and no memory for a line without end."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provision_collector.collect.markers import MAX_LINE_BYTES, MarkerFinder, Markers

GOOD = "✅ PROVISIONING COMPLETE"
DEFAULT = Markers()


def lines_found(data: bytes, markers: Markers = DEFAULT) -> list[bytes]:
    return [match.line for match in MarkerFinder(markers).feed(data)]


COUNTS = {
    "alone": GOOD,
    "after a time": f"2026-01-01T10:00:00.123Z {GOOD}",
    "after a time in brackets and a level": "[2026-01-01 10:00:00,123] [ERROR] FATAL: no disk",
    "after a clock": f"10:00:00 - {GOOD}"[:9] + GOOD,
    "after a level": "ERROR: CRITICAL ERROR: no card",
    "in colour": f"\x1b[1;32m{GOOD}\x1b[0m",
    "after spaces": f"   {GOOD}!",
    "after a carriage return": f"downloading 99 %\r{GOOD}",
    "after a container runtime's prefix": f"2026-01-02T03:04:05.123456Z stdout F {GOOD}",
    "with the line end of another system": f"{GOOD}\r",
}
DOES_NOT_COUNT = {
    "quoted": f'echo "{GOOD}"',
    "in passing": "git said: FATAL: not a repository",
    "in a traced shell": f"+ echo {GOOD}",
    "in a word": "NONFATAL: x",
    "in small letters": "fatal: not a git repository",
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_default_marker_counts(name: str) -> None:
    assert lines_found(COUNTS[name].encode() + b"\n") == [COUNTS[name].encode().rstrip(b"\r")]


@pytest.mark.parametrize("name", DOES_NOT_COUNT)
def test_a_default_marker_does_not_count(name: str) -> None:
    assert lines_found(DOES_NOT_COUNT[name].encode() + b"\n") == []


def test_a_given_marker_matches_anywhere_and_replaces_the_defaults_of_its_kind() -> None:
    markers = Markers.of(["all done"], [])

    assert lines_found(f"it is all done now\n{GOOD}\nFATAL: x\n".encode(), markers) == [
        b"it is all done now",
        b"FATAL: x",
    ]


def test_a_marker_counts_only_when_its_line_is_complete() -> None:
    finder = MarkerFinder(DEFAULT)

    assert list(finder.feed(GOOD.encode())) == []
    assert [match.end for match in finder.feed(b"\nx")] == [len(GOOD.encode()) + 1]


def test_a_line_of_the_old_file_is_not_continued_by_the_new_one() -> None:
    finder = MarkerFinder(DEFAULT)
    list(finder.feed("✅ PROVISIONING".encode()))
    finder.break_line()

    assert list(finder.feed(b" COMPLETE\n")) == []


def test_a_line_without_end_costs_no_memory_and_hides_no_marker() -> None:
    finder = MarkerFinder(Markers.of(["needle"], []))
    for number in range(200):
        list(finder.feed(b"x" * 100_000))
        if number == 100:
            list(finder.feed(b"a needle in it"))
    assert sys.getsizeof(finder._line) < 8 * MAX_LINE_BYTES

    [match] = finder.feed(b"\n")

    assert match.kind == "success"
    assert len(match.line) <= MAX_LINE_BYTES
    assert match.end == 200 * 100_000 + 15


PARTS = st.lists(
    st.sampled_from([b"\n", b"\r", b"FATAL:", b"needle", b"nee", b"dle", b" ", b"x", b"\xff", b"\x00", b"\xe2\x9c\x85 OK", b"LONG"]),
    max_size=15,
)  # fmt: skip
CUTS = st.lists(st.integers(1, 90_000), max_size=20)


@settings(max_examples=100, deadline=None)
@given(PARTS, CUTS)
def test_however_the_bytes_are_cut_the_same_lines_are_found(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts).replace(b"LONG", b"y" * 70_000)
    expected, end = [], 0
    for line in data.split(b"\n")[:-1]:
        end += len(line) + 1
        expected += [end] if b"needle" in line or b"\xe2\x9c\x85 OK" in line else []
    finder = MarkerFinder(Markers.of(["needle", "✅ OK"], ["never there"]))
    found, at = [], 0
    for cut in [*cuts, len(data)]:
        found += [match.end for match in finder.feed(data[at : at + cut])]
        at += cut

    assert found == expected
    assert finder.position == len(data)
