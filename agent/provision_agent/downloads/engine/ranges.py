"""Which bytes of a file are there, on their way, or still missing. Bookkeeping only, guarded by the caller's lock.

Every byte is in exactly one place: landed, inside one claim, or missing. So the frontier, up to which all has
landed and may be hashed, is where the first claim or the first gap begins.

A claim belongs to the connection that fetches it, which moves its `position` without a lock; the pool, which looks
now and then, moves its `end`. What a connection brought beyond an end that was moved meanwhile counts for nothing:
`reached` never passes `end`, so a byte counts once.
"""

from __future__ import annotations

import socket
from bisect import insort
from typing import Iterable, List, Optional, Set, Tuple

from ..http import transport

UNKNOWN = 1 << 62
"""Stands for the end of a file whose length nobody told."""

SAMPLE_S = 0.25
RATE_BYTES, RATE_MOST_S = 1 << 20, 3.0
"""A connection's speed is that of its last MiB, for what trickles comes in lumps; but of no more than its last 3 s."""

Span = Tuple[int, int]


class Claim:
    """A stretch of the file that one connection is fetching: ``[position, end)`` is still to come."""

    def __init__(self, start: int, end: int, *, now: float) -> None:
        self.start = start
        self.position = start
        self.end = end
        self.began_at = now
        self.landed_at: Optional[float] = None
        """When its first byte landed."""
        self.is_abandoned = False
        """Somebody else has what was left; whatever else arrives is dropped."""
        self.answered_at: Optional[float] = None
        """When the server began to send exactly these bytes."""
        self.late = 0
        """Bytes behind which others waited already when they were read."""
        self.cut_at = now
        """When it was last made shorter, or begun."""
        self.is_reused = False
        """Its connection was open already."""
        self.is_observed = False
        """Its wait for the first byte has been noted."""
        self._socket: Optional[socket.socket] = None
        self._marks: List[Tuple[float, int]] = [(now, start)]

    @property
    def reached(self) -> int:
        """Up to where it has brought what is its own."""
        return min(self.position, self.end)

    @property
    def left(self) -> int:
        return max(0, self.end - self.position)

    @property
    def brought(self) -> int:
        return self.reached - self.start

    def hold(self, opened: socket.socket) -> None:
        """Remember the connection that fetches it, so that `abandon` can end that."""
        self._socket = opened
        if self.is_abandoned:
            transport.shut(opened)

    def abandon(self) -> None:
        """Whoever fetches it stops at the next look, or at once when it is `shut` as well."""
        self.is_abandoned = True

    def shut(self) -> None:
        """End the connection of what was abandoned, even while it waits for a byte. Not to be called under a lock."""
        opened = self._socket
        if opened is not None:
            transport.shut(opened)

    def let_go(self) -> None:
        """The connection may fetch something else now."""
        self._socket = None

    def sample(self, now: float) -> None:
        """Remember where it stands, for `rate`; called a few times a second."""
        if now - self._marks[-1][0] >= SAMPLE_S:
            self._marks.append((now, self.reached))
            while len(self._marks) > 2 and now - self._marks[1][0] >= RATE_MOST_S:
                del self._marks[0]

    def rate(self, now: float) -> float:
        """Bytes per second of late: over the last MiB, at least a quarter of a second and at most three."""
        at, position = self._marks[0]
        for at, position in reversed(self._marks):
            if now - at >= SAMPLE_S and self.reached - position >= RATE_BYTES:
                break
        return max(0, self.reached - position) / max(now - at, 0.05)


class Extents:
    """The map of one file of *size* bytes of which *landed* spans are there."""

    def __init__(self, size: Optional[int], landed: Iterable[Span] = ()) -> None:
        self.size = size
        self.claims: Set[Claim] = set()
        self.missing: List[Span] = gaps(landed, UNKNOWN if size is None else size)

    @property
    def end(self) -> int:
        return UNKNOWN if self.size is None else self.size

    @property
    def is_complete(self) -> bool:
        return not self.missing and not self.claims

    @property
    def frontier(self) -> int:
        """Everything before this has landed."""
        starts = [claim.reached for claim in self.claims] + [span[0] for span in self.missing[:1]]
        return min(starts, default=self.end)

    @property
    def landed(self) -> int:
        """How many bytes are there."""
        if self.size is None:
            return self.frontier
        return self.size - sum(b - a for a, b in self.missing) - sum(claim.left for claim in self.claims)

    def claim(self, length: int, now: float) -> Optional[Claim]:
        """Take up to *length* of the first missing bytes; None when all are taken."""
        if not self.missing:
            return None
        start, end = self.missing[0]
        return self.take(start, min(end, start + length), now)

    def take(self, start: int, end: int, now: float) -> Claim:
        """Take ``[start, end)``, the beginning of the first missing bytes."""
        first, last = self.missing[0]
        if start != first or not start < end <= last:
            raise ValueError(f"[{start}, {end}) is not the beginning of [{first}, {last})")
        self.missing[0:1] = [(end, last)] if end < last else []
        return self._begin(start, end, now)

    def split(self, claim: Claim, at: int, now: float) -> Claim:
        """Take ``[at, end)`` away from *claim*; its connection stops at *at*."""
        taken = self._begin(at, claim.end, now)
        claim.end = at
        claim.cut_at = now
        return taken

    def land(self, claim: Claim, count: int, now: float) -> int:
        """*count* more bytes of *claim* are on the disk; returns how many of them are still its own."""
        if claim.landed_at is None:
            claim.landed_at = now
        count = min(count, claim.left)
        claim.position += count
        return count

    def learn_size(self, size: int) -> None:
        """The length, when it becomes known only while the file arrives."""
        self.size = size
        self.missing = [(a, min(b, size)) for a, b in self.missing if a < size]
        for claim in self.claims:
            claim.end = min(claim.end, size)

    def release(self, claim: Claim) -> None:
        """*claim* is over; what it did not fetch is missing again."""
        if claim in self.claims:
            self.claims.discard(claim)
            if claim.left > 0:
                insort(self.missing, (claim.reached, claim.end))
                self.missing = merged(self.missing)

    def _begin(self, start: int, end: int, now: float) -> Claim:
        claim = Claim(start, end, now=now)
        self.claims.add(claim)
        return claim


def merged(spans: Iterable[Span]) -> List[Span]:
    """*spans* in order, those that touch made one."""
    result: List[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif start < end:
            result.append((start, end))
    return result


def gaps(landed: Iterable[Span], size: int) -> List[Span]:
    """What of ``[0, size)`` is in none of the *landed* spans."""
    result, at = [], 0
    for start, end in merged(landed):
        if at < min(start, size):
            result.append((at, min(start, size)))
        at = max(at, end)
    return [*result, (at, size)] if at < size else result
