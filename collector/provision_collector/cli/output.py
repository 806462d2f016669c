"""The one place that prints. What is not ours cannot act on a terminal: not from an error, a name, a hint or a log.

Text keeps its lines and tabs; every other acting character is shown instead of obeyed, and a line without end is cut.
JSON is ASCII. The views of `console/` write to the streams that they are given here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

MAX_LINE_CHARS = 10_000
"""A line of text that is longer is cut, and says so: no path, URL or message of ours comes near."""


def say(text: object = "", *, end: str = "\n") -> None:
    """Print *text* as what was asked for, to stdout."""
    _print(sys.stdout, text, end)


def tell(text: object, *, end: str = "\n") -> None:
    """Print *text* beside what was asked for (warnings, errors, progress), to stderr; on a terminal no word is cut."""
    _print(sys.stderr, _fitted(str(text)) if sys.stderr is not None and sys.stderr.isatty() else text, end)


def say_json(value: object) -> None:
    """Print *value* as one line of JSON, to stdout."""
    _write(sys.stdout, json.dumps(value) + "\n")


def say_file(content: str) -> None:
    """Print the *content* of a file, to stdout: byte for byte into another file, as text on a terminal."""
    if sys.stdout.isatty():
        say(content, end="")
    else:
        _write(sys.stdout, content)


def say_bytes(data: bytes) -> None:
    """Hand on bytes as they are to stdout, which is no terminal."""
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def terminal_width() -> int | None:
    """The columns of the terminal on stdout; None where it is a pipe or a file."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else None


def draw(lines: Sequence[str]) -> None:
    """Put *lines* in place of what the terminal on stdout shows; what does not fit is counted."""
    from ..console.text import harmless, shortened

    size = shutil.get_terminal_size()
    room = list(lines)
    if len(room) >= size.lines:
        room[size.lines - 2 :] = [f"… and {len(lines) - size.lines + 2} more lines"]
    clear_line, clear_below = "\x1b[K", "\x1b[J"
    picture = "".join(f"{shortened(harmless(line), size.columns)}{clear_line}\n" for line in room)
    _write(sys.stdout, f"\x1b[H{picture}{clear_below}")


def ticker(text: str) -> None:
    """Put *text* in place of the line that the terminal on stderr shows last; empty removes it."""
    from ..console.text import shortened

    width = shutil.get_terminal_size().columns
    _write(sys.stderr, f"\r{shortened(shown(text), max(width - 1, 20))}\x1b[K")


def shown(text: object) -> str:
    """*text* as it is printed."""
    from ..console import harmless

    return "\n".join(map(_bounded, harmless(text, keep="\n\t").split("\n")))


def _fitted(text: str) -> str:
    """*text* with its lines broken between words; what is wrapped stays below the first word of its line."""
    from ..console.text import wrapped

    width = shutil.get_terminal_size().columns
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")))
        lines += [indent + part for part in wrapped(line.lstrip(" "), max(width - len(indent), 20))]
    return "\n".join(lines)


def _bounded(line: str) -> str:
    left = len(line) - MAX_LINE_CHARS
    return line if left <= 0 else f"{line[:MAX_LINE_CHARS]}… ({left} more characters)"


def _print(stream: TextIO | None, text: object, end: str) -> None:
    _write(stream, shown(text) + end)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None:  # closed by the caller
        stream.write(text)
        stream.flush()
