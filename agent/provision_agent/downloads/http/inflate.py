"""A body that the server compressed on the way, though asked not to: given out as the file that it is.

In pieces, so that a small body that unpacks to a huge one takes no memory; and it is refused when it grows beyond
what files do.
"""

from __future__ import annotations

import zlib
from typing import Callable, Optional

from ...contract.failures import Failure

READ_BYTES = 64 << 10
FREE_BYTES = 64 << 20
MOST_TIMES = 200
"""Beyond `FREE_BYTES` no file unpacks to more than so many times what came in."""

_AS_IS = ("", "identity", "none", "aws-chunked")
"""Said of what is not compressed; the last is left behind in buckets by the way that a file was uploaded."""
_OF_ZLIB = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_PACKED_NAMES = (".gz", ".tgz", ".svgz")


def coding_of(field: Optional[str], *names: str) -> Optional[str]:
    """How a body with this ``Content-Encoding`` is compressed; None: it is the file as it stands.

    Args:
        names: Of the file. One that says itself that it is gzip means the file, as wget and browsers take it.
    """
    said = [each.strip().lower() for each in (field or "").split(",")]
    codings = [each for each in said if each not in _AS_IS]
    if not codings or (
        codings[-1] in ("gzip", "x-gzip") and any(name.lower().endswith(_PACKED_NAMES) for name in names)
    ):
        return None
    return codings[0] if len(codings) == 1 else ", ".join(codings)


def is_readable(coding: str) -> bool:
    """Whether an `Inflater` can undo *coding*."""
    return coding in _OF_ZLIB


class Inflater:
    """Undoes a coding of `is_readable`, a piece at a time."""

    def __init__(self, coding: str, host: str) -> None:
        self._bits = _OF_ZLIB[coding]
        self._host = host
        self._zlib = zlib.decompressobj(self._bits)
        self._rest = b""
        self._has_begun = False
        self._came = self._given = 0
        self.at_end = False

    def fill(
        self, view: memoryview, receive: Callable[[memoryview], int], is_over: Callable[[], bool]
    ) -> int:
        """Put the next bytes of the file into *view*.

        Args:
            receive: Puts the next bytes of the body into a buffer and says how many; 0: none yet, or *is_over*.

        Returns:
            How many; 0 when none came yet (or `at_end`).

        Raises:
            Failure: `truncated`, when the body breaks off; `not_a_model`, when it is not what its head says; `size`, when it grows too large.
        """
        if not view:
            return 0
        if not self._rest and not is_over():
            buffer = bytearray(READ_BYTES)
            self._rest = bytes(buffer[: receive(memoryview(buffer))])
            self._came += len(self._rest)
        piece = self._inflate(len(view))
        view[: len(piece)] = piece
        self._given += len(piece)
        if self._given > max(FREE_BYTES, MOST_TIMES * self._came):
            message = f"{self._host} sends what unpacks to more than {MOST_TIMES} times its size"
            raise Failure("size", message, case="size_lie")
        if not piece and not self._rest and is_over():
            if not self._zlib.eof and (self._has_begun or self._came):
                raise Failure("truncated", f"{self._host} broke off in the middle of a compressed body")
            self.at_end = True
        return len(piece)

    def _inflate(self, most: int) -> bytes:
        try:
            if self._zlib.eof and self._rest.strip(
                b"\0"
            ):  # gzip may have several parts, one behind the other
                self._zlib, self._has_begun = zlib.decompressobj(self._bits), False
            elif self._zlib.eof:
                self._rest = b""
                return b""
            piece = self._zlib.decompress(self._rest, most)
        except zlib.error as error:
            if (
                self._bits == 15 and not self._has_begun
            ):  # `deflate` without its frame, as some servers send it
                self._bits, self._zlib = -15, zlib.decompressobj(-15)
                return self._inflate(most)
            class_ = "truncated" if self._has_begun else "not_a_model"
            raise Failure(class_, f"{self._host} sends what is not compressed as it says: {error}") from None
        self._has_begun = self._has_begun or bool(self._rest)
        self._rest = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
        return piece
