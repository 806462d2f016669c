"""A limit on how many runs fetch from one source host at once, so that a fleet asks for a file in waves.

It counts from plans: a run takes a turn at every host that its downloads name first, and gives it back when its downloads
are over. Whoever came first goes first, except where another needs none of the hosts that they wait for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from provision_agent.contract.plan import Plan
from provision_agent.contract.source_kinds import host_of


class SourceTurns:
    """The turns of one fleet or server. Used on one event loop.

    Args:
        most: So many runs at one host; None: any number.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()
        self._waiting: dict[Turn, asyncio.Event] = {}

    def turn(self, plan: Plan) -> Turn:
        """The turn of a run of *plan*; it is not taken yet."""
        return Turn(self, hosts_of(plan) if self._most is not None else frozenset())

    def full(self, turn: Turn) -> list[str]:
        """The hosts that have no room for *turn* now."""
        return [host for host in sorted(turn.hosts) if self._taken[host] >= (self._most or 0)]

    async def wait(self, turn: Turn) -> None:
        """Until *turn* is taken; whoever is cancelled has none."""
        self._waiting[turn] = ready = asyncio.Event()
        self._give()
        try:
            await ready.wait()
        except asyncio.CancelledError:
            self._waiting.pop(turn, None)
            if ready.is_set():
                self.give_back(turn)
            self._give()
            raise

    def take(self, turn: Turn) -> None:
        """At once, whatever the limit: the run goes on already."""
        self._taken.update(turn.hosts)

    def give_back(self, turn: Turn) -> None:
        """Others may."""
        self._taken.subtract(turn.hosts)
        self._give()

    def _give(self) -> None:
        claimed: set[str] = set()
        for turn, ready in list(self._waiting.items()):
            if not self.full(turn) and not claimed.intersection(turn.hosts):
                del self._waiting[turn]
                self.take(turn)
                ready.set()
            else:
                claimed.update(turn.hosts)


class Turn:
    """One run's: `take` or `wait`, then `note` its events, and `end` in every case."""

    def __init__(self, turns: SourceTurns, hosts: frozenset[str]) -> None:
        self.hosts = hosts
        self._turns = turns
        self._is_taken = False

    @property
    def waits_for(self) -> list[str]:
        """The hosts that have no room for it now."""
        return self._turns.full(self) if not self._is_taken else []

    def take(self) -> None:
        """Take it at once: the run goes on already."""
        self._is_taken = True
        self._turns.take(self)

    async def wait(self) -> None:
        """Take it when there is room."""
        await self._turns.wait(self)
        self._is_taken = True

    def note(self, event: Mapping[str, object]) -> None:
        """An *event* of the run: when its downloads are over, others may."""
        if event["event"] == "step_finished" and event.get("step") == "downloads":
            self.end()

    def end(self) -> None:
        """Give it back. Safe to repeat."""
        if self._is_taken:
            self._is_taken = False
            self._turns.give_back(self)


def hosts_of(plan: Plan) -> frozenset[str]:
    """The hosts that the downloads of *plan* name first; nobody waits for what is on a disk."""
    urls = [item.url for item in plan.chosen("downloads", plan.downloads)]
    return frozenset(host_of(url) for url in urls if not url.startswith("file:"))
