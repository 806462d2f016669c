"""Which bytes of a file are there, on their way, or still missing. Bookkeeping only, guarded by the caller's lock.

Every byte is in exactly one place: landed, inside one claim, or missing. So the frontier, up to which all has
landed and may be hashed, is where the first claim or the first gap begins.
"""

from __future__ import annotations

import socket
from bisect import insort
from typing import Any, Iterable, List, Optional, Set, Tuple

from ..http import transport

UNKNOWN = 1 << 62
"""Stands for the end of a file whose length nobody told."""

SAMPLE_S = 0.5

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
        self.owner: Any = None
        """The transfer that it is a part of."""
        self._socket: Optional[socket.socket] = None
        self._marks: Tuple[Tuple[float, int], ...] = ((now, start),)

    @property
    def left(self) -> int:
        return self.end - self.position

    def hold(self, opened: socket.socket) -> None:
        """Remember the connection that fetches it, so that `abandon` can end that."""
        self._socket = opened
        if self.is_abandoned:
            transport.shut(opened)

    def abandon(self) -> None:
        """Whoever fetches it stops at once, even while waiting for a byte."""
        self.is_abandoned = True
        if self._socket is not None:
            transport.shut(self._socket)

    def sample(self, now: float) -> None:
        """Remember where it stands, for `rate`; called a few times a second."""
        if now - self._marks[-1][0] >= SAMPLE_S:
            self._marks = (self._marks[-1], (now, self.position))

    def rate(self, now: float) -> float:
        """Bytes per second of late: over the last half to one and a half seconds."""
        at, position = self._marks[0]
        return (self.position - position) / max(now - at, 0.05)


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
        starts = [claim.position for claim in self.claims] + [span[0] for span in self.missing[:1]]
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
        # a last bit that is not worth a request of its own goes along
        cut = end if end - start < length + length // 4 else start + length
        self.missing[0:1] = [(cut, end)] if cut < end else []
        return self._begin(start, cut, now)

    def split(self, claim: Claim, at: int, now: float) -> Claim:
        """Take ``[at, end)`` away from *claim*; its connection stops at *at*."""
        taken = self._begin(at, claim.end, now)
        claim.end = at
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
                insort(self.missing, (claim.position, claim.end))
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
