"""One log that somebody else's script writes: its mirror, and what its lines say.

A marker that was in the log when it was first seen may be of an earlier run: it counts only if nothing follows it.
The same holds for one in a last line without a newline.
"""

from __future__ import annotations

import time
from pathlib import Path

from ..errors import LocalMachineError, ProvisionError
from ..mirror.mirror import READ_BYTES, Mirror
from ..mirror.state import MirrorState
from .markers import MarkerFinder, Markers, Match

STALE_AFTER_S = 10.0
"""A marker that was there when the log was first seen, or whose line has no end, counts only if nothing is written for so long."""


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
        self._markers = markers
        self._finder = MarkerFinder(markers)
        self.is_proved = False
        """The instance has agreed that the mirror is a beginning of the log: until then only what was sealed counts."""
        self._sealed_bytes = self.mirror.sealed_bytes
        self.is_missing: bool | None = None
        self.stale: Match | None = None
        """The last marker that was in the log when it was first seen."""
        self._quiet_since: float | None = None
        self._quiet_bytes = 0
        self.wanted_length: int | None = None
        """How long the mirror must become before the end; known once the marker was seen."""

    def is_next(self, new: bytes) -> bool:
        """Whether *new*, which stands at the mirror's end, is all that has not been looked at: `matches` may be given it."""
        return self.is_proved and self._finder.position == self.mirror.length - len(new)

    def matches(self, new: bytes | None = None) -> list[Match]:
        """Look at what is new in the mirror; the markers that were written after the log was first seen.

        Args:
            new: What is new, where that `is_next`; None reads it from the disk.
        """
        fresh_from, base = self.mirror.fresh_from, self.mirror.base
        if fresh_from is None:
            return []
        found: list[Match] = []
        end = self.mirror.length if self.is_proved else self._sealed_bytes
        while (at := self._finder.position) < end:
            if at == base:
                self._finder.break_line()
            stop = min(base if at < base else at + READ_BYTES, end)
            found += self._finder.feed(self.mirror.read(at, stop - at) if new is None else new)
        old = [match for match in found if match.end <= fresh_from]
        if self.mirror.length > fresh_from:
            self.stale = None
        elif old:
            self.stale = old[-1]
        return [match for match in found if match.end > fresh_from]

    def forget_unproved(self) -> None:
        """The log begins anew: what the instance never agreed to says nothing, for there is nothing left to prove it by."""
        if not self.is_proved:
            self._finder = MarkerFinder(self._markers, position=self.mirror.base)
            self.is_proved = True

    def settled(self, *, is_read_to_end: bool) -> Match | None:
        """The marker that was already there, or whose line has no end, once the log has been quiet for long enough."""
        match = self.stale or self._finder.unfinished()
        if match is None or not is_read_to_end or self.mirror.length != self._quiet_bytes:
            self._quiet_since, self._quiet_bytes = None, self.mirror.length
            return None
        self._quiet_since = self._quiet_since or time.monotonic()
        return match if time.monotonic() - self._quiet_since >= STALE_AFTER_S else None
