"""The newest events of a run in memory, for those who follow it here: whoever is near the end asks no database."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice

RECENT = 200
RECENT_BYTES = 1 << 16
Told = tuple[int, bytes]
"""An event: its id, and its JSON."""


class Feed:
    """The end of one run's stream. What is told here is durable already."""

    def __init__(self, day: int, rid: int) -> None:
        self.day = day
        self.rid = rid
        self.last_id = 0
        self.is_over = False
        """Nothing will follow."""
        self.is_own = False
        """The run is watched here."""
        self.is_cut = False
        """This server does not hear of the run any more: followers go, and come back elsewhere."""
        self.listeners: set[asyncio.Event] = set()
        """Set by every event, and by the end."""
        self._recent: deque[Told] = deque()
        self._bytes = 0

    def tell(self, events: Sequence[Told]) -> None:
        """Take *events*, which follow those before; such as were told already are passed over."""
        new = [event for event in events if event[0] > self.last_id]
        if not new:
            return
        self.last_id = new[-1][0]
        if self._recent and self._recent[-1][0] + 1 != new[0][0]:  # what lies between was not told here
            self._recent.clear()
            self._bytes = 0
        if self.listeners:
            self._recent.extend(new)
            self._bytes += sum(len(body) for _, body in new)
            while len(self._recent) > RECENT or self._bytes > RECENT_BYTES:
                self._bytes -= len(self._recent.popleft()[1])
        elif self._recent:
            self._recent.clear()
            self._bytes = 0
        self.wake()

    def after(self, number: int) -> list[Told] | None:
        """The events after the one with this id; None when they are not here any more."""
        if number >= self.last_id:
            return []
        if not self._recent or self._recent[0][0] > number + 1 or self._recent[-1][0] < self.last_id:
            return None
        return list(islice(self._recent, number + 1 - self._recent[0][0], None))

    def wake(self) -> None:
        """Let every follower look."""
        for listener in self.listeners:
            listener.set()

    def end(self) -> None:
        """Nothing will follow. Safe to repeat."""
        self.is_over = True
        self.wake()

    def cut(self) -> None:
        """Send every follower away."""
        self.is_cut = True
        self.wake()


class Feeds:
    """The feeds of the runs that are watched or followed here."""

    def __init__(self) -> None:
        self._feeds: dict[int, Feed] = {}

    def of(self, day: int, rid: int) -> Feed:
        """The feed of the run with this number."""
        return self._feeds.setdefault(rid, Feed(day, rid))

    def all(self) -> list[Feed]:
        """Every feed."""
        return list(self._feeds.values())

    def drop(self, feed: Feed) -> None:
        """Nobody watches the run here, and nobody follows it."""
        if not feed.is_own and not feed.listeners and self._feeds.get(feed.rid) is feed:
            del self._feeds[feed.rid]

    def cut(self) -> None:
        """Send every follower of every run away; who comes back gets a new feed."""
        for feed in self.all():
            if feed.listeners:
                feed.cut()
                self._feeds.pop(feed.rid)
