"""What a host brings with how many connections: whether more would help, and whether they make it collapse.

Numbers of connections are told apart by powers of two; the best speed of each such level is kept for a while. A
host that brings much less with more connections is held at fewer, and the most that it stands is searched for.
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Optional

SETTLED_S = 0.3
"""A number of connections must have been at work for so long before its speed counts."""
EVIDENCE_BYTES = 4 << 20
"""And must have brought so much: what comes slowly comes in lumps."""
HELPED, HAS_ROOM = 1.25, 0.7
COLLAPSED, COLLAPSED_S = 0.5, 0.75
"""Less than this share of the best speed for so long, with more connections than then, is a collapse."""
PROBE_S, BETTER, LEAST_HELD = 1.0, 2.0, 4
"""A number is tried for so long; fewer must bring so much more; no fewer than this are tried."""
SLOW_LINE_BYTES_PER_S = 2e6
"""What brings less than this in all is likely the line, and a trial of more connections costs a second of it."""
INNOCENT_S = 120.0
"""A line that was just slow is not suspected again for so long."""
KEPT_S = 30.0
HELD_S, HELD_MOST_S = 60.0, 960.0


class Best(NamedTuple):
    """What a level brought the last time, on average."""

    bytes_per_s: float
    connections: int
    at: float


class Gauge:
    """Of one host. Told of every look; no clock of its own."""

    def __init__(self) -> None:
        self._best: Dict[int, Best] = {}
        self._level = 0
        self._since = 0.0
        self._landed_before = 0
        self._brought = 0
        """Bytes at this level."""
        self._room_since: Optional[float] = None
        self._peak: Optional[Best] = None
        """The best look of late."""
        self._low_since: Optional[float] = None
        self._hold: Optional[_Hold] = None
        self._held_s = HELD_S
        self._innocent_until = 0.0
        self._has_room = False
        self._bytes_per_s = 0.0

    def note(self, now: float, connections: int, answered: int, bytes_per_s: float, landed: int) -> None:
        """Take note of a look.

        Args:
            now: Seconds on any clock that only goes forward.
            connections: How many are at work.
            answered: How many of them have brought something.
            bytes_per_s: What they bring together.
            landed: Bytes that came from the host in all.
        """
        level = connections.bit_length()
        if level != self._level:
            self._level, self._since, self._landed_before = level, now, landed
        self._brought = landed - self._landed_before
        self._bytes_per_s = bytes_per_s
        self._best = {level: best for level, best in self._best.items() if now - best.at < KEPT_S}
        if connections and self._is_settled(now):
            self._best[level] = Best(self._brought / (now - self._since), connections, now)
        top = max((best.bytes_per_s for best in self._best.values()), default=0.0)
        if bytes_per_s >= HAS_ROOM * top:
            self._room_since = None
        elif self._room_since is None:
            self._room_since = now
        self._has_room = self._room_since is not None and now - self._room_since >= _evidence_s(top)
        if self._hold is None and now >= self._innocent_until:
            self._see_collapse(now, connections, answered, bytes_per_s)
        elif self._hold is None or now >= self._hold.until:
            self._hold = None
        elif not self._hold.note(now, connections, landed):
            self._hold, self._innocent_until = None, now + INNOCENT_S

    def more_helps(self, now: float) -> bool:
        """Would more connections bring more? Yes if so many did before; once for each level, to find out."""
        here = self._best.get(self._level)
        if self._has_room:
            return True
        if here is None or not self._is_settled(now):
            return False
        below = [best.bytes_per_s for level, best in self._best.items() if level < self._level]
        above = [best.bytes_per_s for level, best in self._best.items() if level > self._level]
        if above and max(above) < HELPED * here.bytes_per_s:
            return False
        return not below or here.bytes_per_s >= HELPED * max(below)

    def is_trial_dear(self) -> bool:
        """Would it only be a trial, and what is on its way beyond each cut a notable part of what comes?"""
        is_tried = self._has_room or any(level < self._level for level in self._best)
        return not is_tried and self._bytes_per_s < SLOW_LINE_BYTES_PER_S

    @property
    def held(self) -> Optional[int]:
        """The most connections that the host stands; None: not known to be a matter of their number."""
        return None if self._hold is None else self._hold.connections

    def _is_settled(self, now: float) -> bool:
        return now - self._since >= SETTLED_S and self._brought >= EVIDENCE_BYTES

    def _see_collapse(self, now: float, connections: int, answered: int, bytes_per_s: float) -> None:
        peak = self._peak
        if peak is None or bytes_per_s >= peak.bytes_per_s or now - peak.at > KEPT_S:
            self._peak = peak = Best(bytes_per_s, answered, now)
        if connections <= peak.connections or bytes_per_s >= COLLAPSED * peak.bytes_per_s:
            self._low_since = None
        elif self._low_since is None:
            self._low_since = now
        elif now - self._low_since >= max(COLLAPSED_S, _evidence_s(peak.bytes_per_s)):
            self._hold = _Hold(now, peak, bytes_per_s, connections, until=now + self._held_s)
            self._held_s = min(2 * self._held_s, HELD_MOST_S)
            # what was learnt holds for a host that stood more than this one does
            self._best, self._peak, self._low_since = {}, None, None


def _evidence_s(bytes_per_s: float) -> float:
    """How long a speed must be seen before it counts, where *bytes_per_s* are usual."""
    return max(SETTLED_S, EVIDENCE_BYTES / max(bytes_per_s, 1.0))


class _Hold:
    """The search for the most connections that a host stands, between what went well and what did not.

    That it was their number is only believed once fewer bring more than the many did.
    """

    def __init__(
        self, now: float, best: Best, low_bytes_per_s: float, too_many: int, *, until: float
    ) -> None:
        self.connections = max(1, best.connections)
        self.until = until
        self._speed = best.bytes_per_s
        self._proof = BETTER * low_bytes_per_s
        self._well = 0
        self._too_many = too_many
        self._since = now
        self._landed_before: Optional[int] = None
        """When the number that is tried began to be at work: what each connection brought before says nothing."""

    def note(self, now: float, connections: int, landed: int) -> bool:
        """Judge the number that is tried, once it has been at work for a while; False: it was not the number."""
        if connections != self.connections:
            return True
        if self._landed_before is None:
            self._since, self._landed_before = now, landed
        if now - self._since < max(PROBE_S, _evidence_s(self._speed)):
            return True
        bytes_per_s = (landed - self._landed_before) / (now - self._since)
        self._landed_before = None
        is_well = bytes_per_s >= COLLAPSED * self._speed and bytes_per_s >= self._proof
        if is_well:
            self._well, self._speed = self.connections, max(self._speed, bytes_per_s)
        elif self.connections <= max(self._well, LEAST_HELD):
            return False  # no better with few, or not any more with what went well: the line is slow
        else:
            self._too_many = min(self._too_many, self.connections)
        if not self._well:
            self.connections = max(1, min(self.connections, max(LEAST_HELD, self.connections // 2)))
        elif self._too_many - self._well > max(1, self._well // 4):
            self.connections = (self._well + self._too_many) // 2
        else:
            self.connections = self._well
        return True
