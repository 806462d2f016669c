"""The one place that prints lets nothing act on a terminal, and JSON is ASCII."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from provision_collector.cli import output

HOSTILE = "a\x1b]0;title\x07b\x9bc\u202ed\u200be\rf\ud800g\x00\nsecond\tline"


def test_text_keeps_lines_and_tabs_and_shows_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    output.say(HOSTILE)
    output.tell(HOSTILE)
    out, err = capsys.readouterr()

    assert out == err
    assert out.endswith("\nsecond\tline\n")
    assert all(char.isprintable() or char in "\n\t" for char in out)


def test_a_line_without_end_is_cut_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("short\n" + "x" * (output.MAX_LINE_CHARS + 7))
    first, second = capsys.readouterr().out.splitlines()

    assert first == "short"
    assert second == "x" * output.MAX_LINE_CHARS + "… (7 more characters)"


def test_json_is_ascii_and_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    output.say_json({"name": HOSTILE, "path": "é" * 20_000})
    out = capsys.readouterr().out

    assert out.isascii()
    assert json.loads(out) == {"name": HOSTILE, "path": "é" * 20_000}
    assert all(char.isprintable() for char in out.rstrip("\n"))


def test_a_file_comes_as_it_is_where_no_terminal_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    output.say_file("a: \u202e\n")

    assert capsys.readouterr().out == "a: \u202e\n"


def test_a_file_cannot_act_on_a_terminal() -> None:
    ours, theirs = os.openpty()
    program = "from provision_collector.cli import output; output.say_file('a: \\u202e\\x9b\\n')"
    subprocess.run([sys.executable, "-c", program], stdout=theirs, check=True, timeout=20)
    shown = os.read(ours, 1000).decode()
    os.close(ours)
    os.close(theirs)

    assert shown == "a: \\u202e\\x9b\r\n"
