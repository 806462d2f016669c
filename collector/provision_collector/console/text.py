"""Make remote text safe to print: control characters are shown, not obeyed.

No character that `harmless` returns moves a cursor, rings a bell, changes a title, hides, or turns the
direction of reading. What would have is shown instead, so that nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len

_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 with ESC, DEL, C1: terminals obey these
    "\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # hidden, bidi
    "\u2028\u2029\ud800-\udfff\U000e0000-\U000e007f]"  # line breaks in disguise, no characters, tags
)
ELLIPSIS = "…"


def harmless(text: object, *, keep: str = "") -> str:
    """*text* with every acting character made visible: ``␛`` for ESC, ``\\x9b`` for a C1, ``\\u202e`` for a bidi.

    Args:
        text: Anything that came from the instance or from a server; made a `str` first.
        keep: Characters to let through, such as ``"\\n\\t"`` where whole lines are printed as they are.
    """
    return _ACTING.sub(lambda match: match[0] if match[0] in keep else _visible(ord(match[0])), str(text))


def shortened(text: str, width: int) -> str:
    """*text* in at most *width* columns, cut in its middle: a file's name tells most at both ends."""
    if cell_len(text) <= width:
        return text
    if width < 2:
        return ELLIPSIS[:width]
    tail = (width - 1) // 2
    return _first_cells(text, width - 1 - tail) + ELLIPSIS + _first_cells(text[::-1], tail)[::-1]


def wrapped(text: str, width: int) -> Iterator[str]:
    """Lines of *text* of at most *width* columns; a longer word (a path, a URL) stays whole, to be copied."""
    line = ""
    for word in text.split(" "):  # double spaces stand between columns, and stay
        if line.strip() and cell_len(line) + 1 + cell_len(word) > width:
            yield line.rstrip()
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line.rstrip()


def print_anything(stream: object) -> None:
    """Let *stream* replace what its encoding lacks: an old locale must not end a run over a ✓."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and getattr(stream, "errors", "") == "strict":
        reconfigure(errors="replace")


def _visible(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _first_cells(text: str, width: int) -> str:
    used = 0
    for at, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[:at]
    return text
