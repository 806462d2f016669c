"""Find the line that says how somebody else's script ended.

Bytes, not text: a marker counts when its line is complete, however it was cut on the way, and a line without end
costs no memory. Used by `collect` only; a run of ours says its verdict in an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

MAX_LINE_BYTES = 64 * 1024
"""So much of a line is kept: enough to show it, and to find a marker at its start."""
DEFAULT_SUCCESS = ("✅ PROVISIONING COMPLETE", "✅ ComfyUI setup complete")
DEFAULT_FAILURE = ("FATAL:", "CRITICAL ERROR:")

Kind = Literal["success", "failure"]

_COLOUR = rb"(?:\x1b\[[0-9;]{0,16}m|[ \t])"
_TIME = rb"(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?"
_LEVEL = rb"(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL|SUCCESS)"
_STREAM = rb"(?:std(?:out|err) [FP] )?"  # as container runtimes write before each line
_PREFIX = rb"%b{0,64}(?:[\[(]?%b[\])]?%b{0,64})?%b(?:[\[(]?%b[\])]?%b{0,8}[:|-]?%b{0,64})?" % (
    _COLOUR,
    _TIME,
    _COLOUR,
    _STREAM,
    _LEVEL,
    _COLOUR,
    _COLOUR,
)


class Match(NamedTuple):
    """A complete line with a marker in it. `end` counts the bytes up to and with its newline since the beginning."""

    kind: Kind
    line: bytes
    end: int


@dataclass(frozen=True)
class Markers:
    """What to look for. *anchored* ones must stand at the start of a line's text, after a timestamp and a level.

    A child's ``… FATAL: …`` in passing is then no verdict.
    """

    success: tuple[str, ...] = DEFAULT_SUCCESS
    failure: tuple[str, ...] = DEFAULT_FAILURE
    is_success_anchored: bool = True
    is_failure_anchored: bool = True

    @classmethod
    def of(cls, success: Sequence[str], failure: Sequence[str]) -> Markers:
        """Those given replace the defaults of their kind and match anywhere in a line."""
        return cls(
            tuple(success) or DEFAULT_SUCCESS, tuple(failure) or DEFAULT_FAILURE, not success, not failure
        )

    def kinds(self) -> Iterator[tuple[Kind, str, bool]]:
        """``(kind, marker, is anchored)`` of each."""
        yield from (("failure", text, self.is_failure_anchored) for text in self.failure)
        yield from (("success", text, self.is_success_anchored) for text in self.success)


class MarkerFinder:
    """Takes the bytes of one log as they come; *position* is where the first of them stands."""

    def __init__(self, markers: Markers, *, position: int = 0) -> None:
        self._rules = [_Rule(kind, text, is_anchored) for kind, text, is_anchored in markers.kinds()]
        self._overlap = max((len(rule.needle) for rule in self._rules), default=1) - 1
        self._position = position
        self._line = bytearray()
        """What is kept of the line that has not ended."""
        self._is_cut = False
        """The beginning of that line is not in `_line` any more."""
        self._early: tuple[_Rule, bytes] | None = None
        """What was found in the part that was cut off."""

    @property
    def position(self) -> int:
        """How many bytes have been taken, from the beginning of the log."""
        return self._position

    def feed(self, data: bytes) -> Iterator[Match]:
        """Yield the first marker of each line that *data* completes, in order."""
        start = self._position
        self._position += len(data)
        last = data.rfind(b"\n")
        if last < 0:
            self._keep(data)
            return
        first = data.find(b"\n") + 1
        self._keep(data[:first])
        yield from self._end_line(start + first)
        whole = data[first : last + 1]
        if any(rule.needle in whole for rule in self._rules):
            at = start + first
            for line in _lines(whole):
                at += len(line)
                self._keep(line)
                yield from self._end_line(at)
        self._keep(data[last + 1 :])

    def unfinished(self) -> Match | None:
        """The marker in the line that has not ended: a script's last word may lack its newline."""
        found = self._early or self._found()
        return None if found is None else _match(*found, self._position)

    def break_line(self) -> None:
        """The log began anew: what comes next is no part of the line so far."""
        self._line.clear()
        self._is_cut, self._early = False, None

    def _keep(self, data: bytes) -> None:
        """Add to the unfinished line; of one that is too long, look at the beginning and keep the end."""
        for start in range(0, len(data), MAX_LINE_BYTES):
            self._line += data[start : start + MAX_LINE_BYTES]
            if len(self._line) > 2 * MAX_LINE_BYTES:
                self._early = self._early or self._found()
                del self._line[: len(self._line) - self._overlap]
                self._is_cut = True

    def _end_line(self, end: int) -> Iterator[Match]:
        found = self._early or self._found()
        self.break_line()
        if found is not None:
            yield _match(*found, end)

    def _found(self) -> tuple[_Rule, bytes] | None:
        for rule in self._rules:
            if rule.needle in self._line and rule.is_in(self._line, is_start=not self._is_cut):
                return rule, bytes(self._line)
        return None


class _Rule:
    """One marker."""

    def __init__(self, kind: Kind, text: str, is_anchored: bool) -> None:
        self.kind: Kind = kind
        self.needle = text.encode()
        self._anchored = (
            re.compile(rb"(?:\A|\r)%b%b" % (_PREFIX, re.escape(self.needle))) if is_anchored else None
        )

    def is_in(self, line: bytearray, *, is_start: bool) -> bool:
        """Whether the marker counts in a *line* that holds it; what follows a carriage return begins a line on a screen."""
        if self._anchored is None:
            return True
        match = self._anchored.search(line)
        return match is not None and (is_start or match.start() > 0)


def _match(rule: _Rule, line: bytes, end: int) -> Match:
    return Match(rule.kind, line.rstrip(b"\r\n")[:MAX_LINE_BYTES], end)


def _lines(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1
        yield data[start:end]
        start = end
