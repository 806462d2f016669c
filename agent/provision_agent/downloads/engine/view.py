"""How things stand, as `decisions` wants to know it: made from transfers, hosts and the tuner, under the pool's lock."""

from __future__ import annotations

from typing import Dict, List, Optional

from ..hosts import Hosts
from . import decisions
from .gauge import Gauge
from .transfer import Transfer
from .tuner import Tuner, cores

MIB = 1 << 20
UNHASHED_MOST = 16 * MIB
HASH_BYTES_PER_S = 1.8e9
"""Of one file: each has one thread that hashes it."""
CLOSES_LEAST, BYTES_PER_CLOSE = 2, 8 * MIB
"""How many slow connections of a file may be closed: so many, and one more for so many bytes that have come."""


class View:
    """Of the pool's *transfers*, which is the pool's own list, the most urgent first."""

    def __init__(self, transfers: List[Transfer], hosts: Hosts, tuner: Tuner) -> None:
        self.transfers = transfers
        self._hosts = hosts
        self._tuner = tuner
        self._gauges: Dict[str, Gauge] = {}

    def open_to(self, host: str) -> int:
        return sum(len(each.extents.claims) for each in self.transfers if each.answer.host == host)

    def is_full(self, now: float) -> bool:
        """Are as many connections at work as may be, with more to do for each, and do most bring something?"""
        slots = sum(self._slots(each, now) for each in self.transfers if each.extents.missing)
        claims = [claim for each in self.transfers for claim in each.extents.claims]
        is_busy = len(claims) >= 0.75 * (min(slots, self._tuner.connections) or self._tuner.connections)
        return is_busy and sum(claim.landed_at is not None for claim in claims) >= 0.25 * len(claims)

    def _slots(self, transfer: Transfer, now: float) -> int:
        """The most connections that *transfer* may have now."""
        cap, share = self._cap(transfer), self._share(transfer, self._tuner.connections)
        if self._tuner.is_few and transfer.unhashed > UNHASHED_MOST:
            share = 1  # this machine is the limit: what is fetched faster than it is hashed only waits
        per_file = self._tuner.per_file
        if self._tuner.may_exceed and share > per_file:
            # few files are left, and many connections have proved useful: twice as many for as long as they do
            count = len(transfer.extents.claims)
            helps = self.gauge(transfer.answer.host).more_helps(now)
            per_file = max(per_file, 2 * count if helps else count)
        return min([per_file, share] + ([cap] if cap is not None else []))

    def _share(self, transfer: Transfer, connections: int) -> int:
        """Its fair part of *connections*: what those files need that are all on their way, the others divide."""
        unfinished = [each.extents for each in self.transfers if not each.extents.is_complete]
        sharers = [extents for extents in unfinished if extents.missing]
        if not transfer.extents.missing:
            return -(-connections // max(1, len(unfinished)))
        used = sum(len(extents.claims) for extents in unfinished if not extents.missing)
        return -(-max(1, connections - used) // max(1, len(sharers)))

    def gauge(self, host: str) -> Gauge:
        return self._gauges.setdefault(host, Gauge())

    def _hoped(self, transfer: Transfer, now: float) -> int:
        """How many connections it may come to have: among so many its bytes are divided."""
        if self._tuner.is_machine_bound:
            return self._slots(transfer, now)
        cap = self._cap(transfer)
        share = self._share(transfer, max(self._tuner.usual, self._tuner.connections))
        return min([self._tuner.per_file, share] + ([cap] if cap is not None else []))

    def _cap(self, transfer: Transfer) -> Optional[int]:
        caps = [
            transfer.limits.connections,
            self._hosts.connections_cap(*transfer.source_hosts, transfer.answer.host),
            1 if transfer.is_single else None,
        ]
        return min((cap for cap in caps if cap is not None), default=None)

    def state(self, now: float, idle: int) -> decisions.State:
        names = {transfer.answer.host for transfer in self.transfers}
        paused = {name for name in names if self._hosts.paused_s(name) > 0}
        hosts = {}
        for name in names:
            gauge = self.gauge(name)
            hosts[name] = decisions.Host(
                open=self.open_to(name),
                allowed=self._hosts.allowed(name),
                held=gauge.held,
                bytes_per_s=self._hosts.rate(name),
                first_byte_s=self._hosts.first_byte_s(name),
                more_helps=gauge.more_helps(now),
                worth_s=decisions.UNTRIED_WORTH_S if gauge.is_trial_dear() else decisions.WORTH_S,
            )
        return decisions.State(
            [self._file(each, now, is_paused=each.answer.host in paused) for each in self.transfers],
            hosts,
            idle,
            self._tuner.is_line_full,
            HASH_BYTES_PER_S * max(1, min(cores(), len(self.transfers))),
        )

    def _file(self, transfer: Transfer, now: float, *, is_paused: bool) -> decisions.File:
        may = not (transfer.is_blocked or is_paused or now < transfer.not_before)
        pieces = [
            decisions.Piece(
                id(claim),
                claim.reached,
                claim.end,
                claim.rate(now),
                now - claim.began_at,
                now - claim.cut_at,
                claim.landed_at is not None,
            )
            for claim in transfer.extents.claims
            if not claim.is_abandoned
        ]
        return decisions.File(
            id(transfer),
            transfer.answer.host,
            tuple(transfer.extents.missing),
            tuple(pieces),
            self._slots(transfer, now) if may else 0,
            self._hoped(transfer, now),
            CLOSES_LEAST + transfer.bytes_landed // BYTES_PER_CLOSE - transfer.closes,
            transfer.is_single,
            self._cap(transfer) == 1,
        )
