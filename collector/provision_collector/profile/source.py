"""The text of a profile's file, or one line that says why there is none."""

from __future__ import annotations

import os
from pathlib import Path

from .tree import MAX_BYTES


class SourceError(Exception):
    """A profile's text cannot be had; `line` and `column` say where, as far as there is a where."""

    def __init__(self, message: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def read_text(path: str | Path) -> str:
    """Read a profile.

    Raises:
        SourceError: no such file, not readable, over 1 MiB, or not UTF-8 text.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SourceError("no such file") from None
    except OSError as error:
        raise SourceError(f"cannot be read: {os.strerror(error.errno or 0).lower()}") from None
    if len(data) > MAX_BYTES:
        raise SourceError(f"more than {MAX_BYTES >> 20} MiB: this is no profile")
    return _decoded(data)


def _decoded(data: bytes) -> str:
    if b"\0" in data:
        raise SourceError("binary data or UTF-16, not a profile: save it as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise SourceError("not UTF-8 text: save it as UTF-8", line=line, column=column) from None
