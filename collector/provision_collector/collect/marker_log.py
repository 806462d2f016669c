"""One log that somebody else's script writes: its mirror, and what its lines say.

A marker that was in the log when it was first seen may be of an earlier run: it counts only if nothing follows it.
"""

from __future__ import annotations

import time
from pathlib import Path

from ..errors import LocalMachineError, ProvisionError
from ..mirror.mirror import READ_BYTES, Mirror
from ..mirror.state import MirrorState
from .markers import MarkerFinder, Markers, Match

STALE_AFTER_S = 10.0
"""A marker that was there when the log was first seen counts only if nothing is written for so long."""


class MarkedLog:
    """Opens the mirror; raises what `Mirror` raises."""

    def __init__(self, remote: str, output: Path, markers: Markers, *, max_bytes: int | None) -> None:
        self.remote = remote
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalMachineError(
                f"cannot write to `{output.parent}`: {error.strerror}", hint="choose another `--output`"
            ) from None
        self.state = MirrorState(output.with_name(output.name + ".state.json"))
        self.mirror = Mirror(output, self.state, "log", max_bytes=max_bytes)
        try:
            self.mirror.belongs_to(remote)
        except ProvisionError:
            self.mirror.close()
            raise
        self._finder = MarkerFinder(markers)
        self.is_missing: bool | None = None
        self.stale: Match | None = None
        """The last marker that was in the log when it was first seen."""
        self._quiet_since: float | None = None
        self.wanted_length: int | None = None
        """How long the mirror must become before the end; known once the marker was seen."""

    def matches(self) -> list[Match]:
        """Read what is new in the mirror; the markers that were written after the log was first seen."""
        fresh_from, base = self.mirror.fresh_from, self.mirror.base
        if fresh_from is None:
            return []
        found: list[Match] = []
        while (at := self._finder.position) < self.mirror.length:
            if at == base:
                self._finder.break_line()
            found += self._finder.feed(self.mirror.read(at, base - at if at < base else READ_BYTES))
        old = [match for match in found if match.end <= fresh_from]
        if self.mirror.length > fresh_from:
            self.stale = None
        elif old:
            self.stale = old[-1]
        return [match for match in found if match.end > fresh_from]

    def settled(self, *, is_read_to_end: bool) -> Match | None:
        """The marker that was already there, once the log has been quiet for long enough."""
        if self.stale is None or not is_read_to_end:
            self._quiet_since = None
            return None
        self._quiet_since = self._quiet_since or time.monotonic()
        return self.stale if time.monotonic() - self._quiet_since >= STALE_AFTER_S else None
