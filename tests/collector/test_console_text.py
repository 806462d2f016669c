"""Remote text can be read and can do nothing; numbers read as people write them."""

from __future__ import annotations

import unicodedata

import pytest
from provision_collector.console import harmless, units
from provision_collector.console.text import shortened, wrapped
from rich.cells import cell_len

EVERY_CHARACTER = [chr(code) for code in (*range(0x3000), *range(0xD7F0, 0x11000), *range(0xE0000, 0xE0100))]


def test_no_character_that_acts_on_a_terminal_survives():
    shown = harmless("".join(EVERY_CHARACTER))

    acting = {c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    turning = {
        c
        for c in shown
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    }
    assert acting | turning == set()
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    {
        "colour": ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        "title and bell": ("\x1b]0;owned\x07", "␛]0;owned␇"),
        "a C1 introducer": ("\x9b31m", "\\x9b31m"),
        "a carriage return that would overwrite": ("failed\rok", "failed␍ok"),
        "a bidi override": ("exe.\u202egpj", "exe.\\u202egpj"),
        "half a surrogate pair": ("\ud83d", "\\ud83d"),
        "rich markup is only text": ("[bold red]x[/]", "[bold red]x[/]"),
        "letters of the world": ("Größe 模型 модель 👩\u200d💻 ✅", "Größe 模型 модель 👩\u200d💻 ✅"),
        "not even a string": (404, "404"),
    }.values(),
)
def test_what_would_act_is_shown_instead(text, shown):
    assert harmless(text) == shown


def test_a_log_keeps_its_lines_and_tabs_when_asked():
    assert harmless("a\tb\n\x1b", keep="\n\t") == "a\tb\n␛"


@pytest.mark.parametrize("width", range(1, 40))
@pytest.mark.parametrize(
    "text", ["ComfyUI/models/sd_xl_base_1.0.safetensors", "模型文件很长的名字.safetensors", "a"]
)
def test_a_shortened_name_fits_and_keeps_both_ends(text, width):
    short = shortened(text, width)

    assert cell_len(short) <= width
    assert short == text or "…" in short
    if 6 < width < cell_len(text):
        assert short[0] == text[0]
        assert short[-1] == text[-1]


def test_wrapping_keeps_to_the_width_and_leaves_a_url_in_one_piece():
    url = "https://example.org/" + "x" * 60
    lines = list(wrapped(f"some words before {url} and  two spaces", 30))

    assert lines == ["some words before", url, "and  two spaces"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (6_938_078_334, "6.9 GB"),
        (212e6, "212 MB"),
    ],
)
def test_sizes_have_three_digits_at_most(count, text):
    assert units.size(count) == text


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [(3.4e9, 6.9e9, "3.4/6.9 GB"), (0, 254e6, "0/254 MB"), (8e9, 6.9e9, "6.9/6.9 GB"), (5, 10, "5/10 B")],
)
def test_a_part_is_said_in_the_unit_of_the_whole(done, total, text):
    assert units.size_of(done, total) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 m 00 s"),
        (65, "1 m 05 s"),
        (3600, "1 h 00 m"),
        (90000, "1 d 01 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert units.duration(seconds) == text


def test_a_place_in_time_is_a_clock():
    assert [units.clock(seconds) for seconds in (0, 72.9, 3723)] == ["00:00", "01:12", "1:02:03"]
