"""All connections of all files: threads that take the next stretch of the most urgent file.

Stretches are handed out in file order, so that hashing can follow. When none is left, idle connections take over
the rear of the stretch that would last longest; a connection that crawls while its siblings run loses its rest.
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import Callable, Dict, List, Optional

from ...contract.failures import Failure
from ..hosts import Hosts, Rate
from ..http import request
from ..sources.lookup import Sources
from .ranges import UNKNOWN, Claim
from .transfer import Transfer, carry
from .tuner import Tuner

MIB = 1 << 20
MIN_CHUNK, FIRST_CHUNK, MAX_CHUNK = 8 * MIB, 32 * MIB, 128 * MIB
TURNS = 16
USUAL_RATE = 20e6
"""Bytes per second of one connection to a large store, as long as nothing has been measured."""
MIN_STEAL = 256 * 1024
BUFFER, SMALL_BUFFER, LARGE_BUFFERS = MIB, MIB // 4, 32
"""The first 32 connections read 1 MiB at a time; more are only opened when each one is slow."""
SLOW_AFTER_S = 5.0
SILENT_S = 2.0
STEAL_AFTER_S, WORTH_STEALING_S = 0.5, 0.25
"""A stretch is cut once its speed is known, if it would last noticeably longer than a new request takes."""
SLOW_BYTES_PER_S = 64 * 1024
LOOK_AGAIN_S = 0.2
UNHASHED_MOST = 16 * MIB
BACKLOG = 256 * 1024
"""If so many bytes wait after a read, this machine is slower than the line."""


class Pool:
    """Carries every byte. `add` a transfer, wait for its `changed`, `withdraw` it."""

    def __init__(
        self,
        access: Sources,
        hosts: Hosts,
        rate: Rate,
        tuner: Tuner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._hosts = hosts
        self._rate = rate
        self.tuner = tuner
        self._clock = clock
        self._transfers: List[Transfer] = []
        self._workers: Dict[int, threading.Thread] = {}
        self._stopped = threading.Event()
        self.guard = threading.Condition()
        """Held while a transfer's extents are read or changed."""
        self.bytes_landed = 0
        self._bytes_late = 0
        """Of those, the ones behind which others waited already."""

    def add(self, transfer: Transfer) -> None:
        """Begin to fetch."""
        with self.guard:
            self._transfers.append(transfer)
            self._transfers.sort(key=lambda each: each.rank)
            self._tune()
            self.guard.notify_all()

    def withdraw(self, transfer: Transfer, *, within_s: float) -> bool:
        """End every connection of *transfer*.

        Returns:
            True when nothing writes to its file any more; False if that was not so *within_s*.
        """
        with self.guard:
            transfer.is_blocked = True
            if transfer in self._transfers:
                self._transfers.remove(transfer)
            for claim in transfer.extents.claims:
                claim.abandon()
            return self.guard.wait_for(lambda: not transfer.extents.claims, timeout=within_s)

    def is_hungry(self) -> bool:
        """Could the connections carry another file as well?"""
        with self.guard:
            return not any(
                transfer.extents.missing and not transfer.is_blocked for transfer in self._transfers
            )

    def watch(self, transfer: Transfer) -> int:
        """Look after the connections of *transfer*, about twice a second; returns the bytes that are there."""
        with self.guard:
            now = self._clock()
            for claim in transfer.extents.claims:
                claim.sample(now)
            self._shed(transfer, now)
            self._tune()
            return transfer.extents.landed

    def fair_share(self, floor_bytes_per_s: float) -> float:
        """The speed below which a file counts as stalled, when all together are held back on purpose."""
        if self._rate.bytes_per_s is None:
            return floor_bytes_per_s
        return min(floor_bytes_per_s, self._rate.bytes_per_s / (2 * max(1, len(self._transfers))))

    def frontier(self, transfer: Transfer) -> int:
        """Up to where the file is there without a gap."""
        with self.guard:
            return transfer.extents.frontier

    def stop(self, *, within_s: float) -> None:
        """End all connections and threads."""
        self._stopped.set()
        with self.guard:
            for transfer in self._transfers:
                transfer.is_blocked = True
                for claim in transfer.extents.claims:
                    claim.abandon()
            self.guard.notify_all()
            workers = list(self._workers.values())
        end = time.monotonic() + within_s
        for worker in workers:
            worker.join(max(0.0, end - time.monotonic()))

    # -- the threads

    def _tune(self) -> None:
        """Have as many threads as connections are wanted now."""
        self.tuner.tick(self._clock(), self.bytes_landed, self._bytes_late, is_full=self._is_full())
        for number in range(self.tuner.connections):
            if number not in self._workers and not self._stopped.is_set():
                worker = threading.Thread(
                    target=self._work, args=(number,), name=f"fetch-{number}", daemon=True
                )
                self._workers[number] = worker
                worker.start()

    def _work(self, number: int) -> None:
        view = memoryview(bytearray(BUFFER if number < LARGE_BUFFERS else SMALL_BUFFER))
        connection: Optional[request.Connection] = None
        try:
            while True:
                claim = self._next(number)
                if claim is None:
                    return
                connection = self._carry(claim, view, connection)
        finally:
            if connection is not None:
                connection.close()
            with self.guard:
                del self._workers[number]

    def _next(self, number: int) -> Optional[Claim]:
        with self.guard:
            while not self._stopped.is_set() and number < self.tuner.connections:
                claim = self._pick(self._clock())
                if claim is not None:
                    return claim
                self.guard.wait(LOOK_AGAIN_S if self._transfers else 5.0)
            return None

    def _carry(
        self, claim: Claim, view: memoryview, reuse: Optional[request.Connection]
    ) -> Optional[request.Connection]:
        failure: Optional[Failure] = None
        kept: Optional[request.Connection] = None
        try:
            kept = carry(
                claim,
                view,
                access=self._access,
                rate=self._rate,
                landed=self._landed,
                reuse=reuse,
                sleep=self._stopped.wait,
            )
        except Failure as error:
            failure = error
        except (
            Exception
        ) as error:  # a thread must not end silently: the driver reports it as the bug that it is
            failure = Failure("bug", f"{type(error).__name__}: {error}")
        finally:
            self._release(claim, failure)
        return kept

    # -- bookkeeping

    def _landed(self, claim: Claim, count: int, backlog: int) -> int:
        transfer: Transfer = claim.owner
        with self.guard:
            now = self._clock()
            if claim.landed_at is None and claim.answered_at is not None:
                self._hosts.observe(transfer.answer.host, first_byte_s=claim.answered_at - claim.began_at)
            count = transfer.extents.land(claim, count, now)
            transfer.bytes_landed += count
            transfer.landed_at = now
            self.bytes_landed += count
            self._bytes_late += count if backlog > BACKLOG else 0
            return count

    def _release(self, claim: Claim, failure: Optional[Failure]) -> None:
        transfer: Transfer = claim.owner
        with self.guard:
            now = self._clock()
            brought, took_s = claim.position - claim.start, now - (claim.landed_at or now)
            if brought >= MIB and took_s > 0:
                self._hosts.observe(transfer.answer.host, rate=brought / took_s)
            if transfer.extents.size is None and failure is None and not claim.is_abandoned:
                transfer.extents.learn_size(claim.position)
            if failure is not None and not claim.is_abandoned and not transfer.is_blocked:
                self._note(transfer, claim, failure, now)
            transfer.extents.release(claim)
            if transfer.extents.is_complete:
                transfer.changed.set()
            self.guard.notify_all()

    def _note(self, transfer: Transfer, claim: Claim, failure: Failure, now: float) -> None:
        host = transfer.answer.host
        if failure.class_ == "rate_limited":
            self._hosts.pause(host, float(failure.facts.get("wait_s", 0.0)))
        if failure.retriable and claim.answered_at is None:
            self._hosts.refused(host, self._open_to(host))
            transfer.not_before = now + 0.2
        transfer.note(failure, claim)

    def _open_to(self, host: str) -> int:
        return sum(len(each.extents.claims) for each in self._transfers if each.answer.host == host)

    def _idle(self) -> int:
        return self.tuner.connections - sum(len(each.extents.claims) for each in self._transfers)

    def _is_full(self) -> bool:
        """Are as many connections at work as may be, with more to do for each?"""
        slots = sum(self._slots(each) for each in self._transfers if each.extents.missing)
        busy = sum(len(each.extents.claims) for each in self._transfers)
        return slots > 0 and busy >= 0.75 * min(slots, self.tuner.connections)

    # -- who fetches what

    def _pick(self, now: float) -> Optional[Claim]:
        for choose in (self._next_stretch, self._steal):
            for transfer in self._transfers:
                claim = choose(transfer, now) if self._has_room(transfer, now) else None
                if claim is not None:
                    claim.owner = transfer
                    return claim
        return None

    def _has_room(self, transfer: Transfer, now: float) -> bool:
        host, count = transfer.answer.host, len(transfer.extents.claims)
        if transfer.is_blocked or now < transfer.not_before or count >= self._slots(transfer):
            return False
        allowed = self._hosts.allowed(host)
        return self._hosts.paused_s(host) == 0 and (allowed is None or self._open_to(host) < allowed)

    def _slots(self, transfer: Transfer) -> int:
        caps = [
            transfer.limits.connections,
            self._hosts.connections_cap(transfer.source_host, transfer.answer.host),
            1 if transfer.is_single else None,
        ]
        unfinished = sum(1 for each in self._transfers if not each.extents.is_complete)
        share = -(-self.tuner.connections // max(1, unfinished))
        if self.tuner.is_few and transfer.unhashed > UNHASHED_MOST:
            share = 1  # this machine is the limit: what is fetched faster than it is hashed only waits
        return min([self.tuner.per_file, share] + [cap for cap in caps if cap is not None])

    def _next_stretch(self, transfer: Transfer, now: float) -> Optional[Claim]:
        if transfer.is_single:
            return transfer.extents.claim(UNKNOWN, now)
        host, slots = transfer.answer.host, self._slots(transfer)
        missing = sum(end - start for start, end in transfer.extents.missing)
        rate, wait_s = self._hosts.rate(host), self._hosts.first_byte_s(host)
        wanted = rate * max(2.0, 8 * wait_s) if rate else FIRST_CHUNK
        # several turns for each connection, so that the hash can follow the first while the others arrive;
        # but never so short that waiting for answers becomes the work
        fair = max(missing / (TURNS * slots), 4 * wait_s * (rate or USUAL_RATE))
        return transfer.extents.claim(int(min(max(min(wanted, fair), MIN_CHUNK), MAX_CHUNK)), now)

    def _steal(self, transfer: Transfer, now: float) -> Optional[Claim]:
        """The rear of the stretch that would last longest, cut so that both ends finish together."""
        host = transfer.answer.host
        wait_s = self._hosts.first_byte_s(host)
        settled = [
            claim
            for claim in transfer.extents.claims
            if now - claim.began_at > max(STEAL_AFTER_S if claim.landed_at else SILENT_S, 4 * wait_s)
        ]
        usual = self._hosts.rate(host) or max([claim.rate(now) for claim in settled], default=0.0)
        if transfer.is_single or not settled or usual <= 0:
            return None
        slowest = max(settled, key=lambda claim: claim.left / (claim.rate(now) + 1.0))
        rate = slowest.rate(now)
        if slowest.left / (rate + 1.0) < 2 * wait_s + WORTH_STEALING_S:
            return None
        take = int((slowest.left - rate * wait_s) * usual / (usual + rate))
        # several idle connections may cut the same stretch: none takes more than an equal share of what is left
        hands = min(self._slots(transfer), len(transfer.extents.claims) + self._idle())
        share = sum(claim.left for claim in transfer.extents.claims) // max(1, hands)
        take = max(min(take, share), MIN_STEAL) if rate > 0.1 * usual else take
        if take < MIN_STEAL <= slowest.left:
            return None
        is_rest_worth_it = slowest.left - take >= MIN_STEAL
        at = slowest.end - take if is_rest_worth_it else slowest.position
        claim = transfer.extents.split(slowest, at, now)
        if slowest.left == 0:
            slowest.abandon()
        return claim

    def _shed(self, transfer: Transfer, now: float) -> None:
        """Take the rest from connections that crawl while their siblings run; it goes to a new one."""
        claims = transfer.extents.claims
        rates = {claim: claim.rate(now) for claim in claims if now - claim.began_at > SLOW_AFTER_S}
        if len(claims) < 3 or not rates or transfer.is_blocked:
            return
        floor = max(SLOW_BYTES_PER_S, 0.1 * statistics.median(claim.rate(now) for claim in claims))
        if statistics.median(claim.rate(now) for claim in claims) < 2 * SLOW_BYTES_PER_S:
            return  # all are slow: that is the line
        for claim, rate in rates.items():
            if rate < floor:
                claim.abandon()
