"""Durations, sizes and conditions as people write them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provision_collector.profile import units

DURATIONS = {"90": 90.0, "0.5": 0.5, 30: 30.0, 1.5: 1.5, "30s": 30.0, "15m": 900.0, "1h": 3600.0, "1.5h": 5400.0, "1h30m": 5400.0, "500ms": 0.5, "2d": 172800.0, "365d": 31536000.0}  # fmt: skip
SIZES = {0: 0, "100": 100, "1B": 1, "1kB": 1000, "1KB": 1000, "1KiB": 1024, "100MiB": 104857600, "6.9GB": 6900000000, "6.9 GB": 6900000000, "0.1KiB": 102, "2TiB": 2199023255552}  # fmt: skip
NO_DURATIONS = ("", "s", "1:30", "5m1h", "5m5m", "-1", "0", 0, -5, "1e3", "1 h", "1H", "٣s", float("inf"), float("nan"), True, None, [], "400d", "1_000")  # fmt: skip
NO_SIZES = ("", "MB", "1mb", "1Mb", "1kiB", "1iB", "24G", "-1", -1, 1.5, "1.5", "1  MB", "٣MB", float("inf"), True, None, "9" * 5000, "2000000000 GiB")  # fmt: skip


@pytest.mark.parametrize("written", DURATIONS)
def test_a_duration_is_read(written: object) -> None:
    assert units.duration_s(written) == DURATIONS[written]


@pytest.mark.parametrize("written", NO_DURATIONS, ids=repr)
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        units.duration_s(written)


@pytest.mark.parametrize("written", SIZES)
def test_a_size_is_read(written: object) -> None:
    assert units.size_bytes(written) == SIZES[written]


@pytest.mark.parametrize("written", NO_SIZES, ids=lambda value: repr(value)[:20])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="size"):
        units.size_bytes(written)


@given(st.integers(1, 10**6), st.sampled_from([("s", 1), ("m", 60), ("h", 3600)]))
def test_a_count_of_units_is_that_many_seconds(count: int, unit: tuple[str, int]) -> None:
    seconds = count * unit[1]
    if seconds <= units.LONGEST_S:
        assert units.duration_s(f"{count}{unit[0]}") == seconds


@given(st.decimals(0, 1000, places=3), st.sampled_from(["", "K", "M", "G", "T"]))
def test_binary_and_decimal_units_differ_by_their_base(count: object, letter: str) -> None:
    power = " KMGT".index(letter or " ")
    decimal, binary = (
        units.size_bytes(f"{count}{letter}B"),
        units.size_bytes(f"{count}{letter + 'i' if letter else ''}B"),
    )

    assert abs(decimal - float(str(count)) * 1000**power) <= 1
    assert abs(binary - float(str(count)) * 1024**power) <= 1


@given(st.integers(0, units.LARGEST_BYTES))
def test_bytes_are_exact(size: int) -> None:
    assert units.size_bytes(size) == units.size_bytes(str(size)) == units.size_bytes(f"{size}B") == size


@given(st.text(string.printable, max_size=12))
def test_any_text_is_a_measure_or_a_value_error(text: str) -> None:
    for read in (units.duration_s, units.size_bytes, units.bound):
        try:
            read(text)
        except ValueError as error:
            assert "`" in str(error)


@pytest.mark.parametrize(
    ("written", "expected"),
    [(">=24GiB", (">=", 24 << 30)), ("< 5 GB", ("<", 5_000_000_000)), ("==0", ("==", 0))],
)
def test_a_condition_is_an_operator_and_a_size(written: str, expected: tuple[str, int]) -> None:
    assert units.bound(written) == expected


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (18_400_000_000, "18.4 GB"), (2 * 10**15, "2000.0 TB")])  # fmt: skip
def test_a_size_is_shown_as_sources_state_it(size: int, text: str) -> None:
    assert units.as_text(size) == text
