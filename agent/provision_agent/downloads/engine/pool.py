"""All connections of all files: threads that fetch the ranges that `decisions` hands out.

A connection counts in its own memory. The pool looks at all of them every `LOOK_S`, and whenever one becomes idle,
and does what is decided then. Its lock is taken per range, not per buffer; sockets are shut after it is released.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from ...contract.failures import Failure
from ..hosts import Hosts, Rate
from ..http import request
from ..sources.lookup import Sources
from . import decisions
from .decisions import Assign, Close, Cut
from .ranges import Claim
from .transfer import Transfer, carry
from .tuner import Tuner
from .view import View

MIB = 1 << 20
BUFFER, SMALL_BUFFER, LARGE_BUFFERS = MIB, MIB // 2, 16
"""The first 16 connections read 1 MiB at a time; more are only opened when each one is slow."""
LOOK_S = 0.05
IDLE_LOOK_S = 5.0
HUNGRY_BYTES = 16 * MIB
"""When less than this is left to hand out for each connection that there may be soon, the next file may begin."""
REFUSED_PAUSE_S = 0.2


class Worker:
    """One connection's thread: waits in front of its mailbox for what to fetch; None ends it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.mailbox: "queue.SimpleQueue[Optional[Tuple[Transfer, Claim]]]" = queue.SimpleQueue()
        self.is_idle = True
        self.thread: Optional[threading.Thread] = None


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
        self._view = View(self._transfers, hosts, tuner)
        self._workers: Dict[int, Worker] = {}
        self._stopped = threading.Event()
        self._looker: Optional[threading.Thread] = None
        self.guard = threading.Condition()
        """Held while a transfer's extents are read or changed."""
        self._bytes_done = 0
        """What ranges brought that are over."""
        self._late_done = 0
        self._host_done: Dict[str, int] = {}

    def add(self, transfer: Transfer) -> None:
        """Begin to fetch."""
        with self.guard:
            self._transfers.append(transfer)
            self._transfers.sort(key=lambda each: each.rank)
            if self._looker is None and not self._stopped.is_set():
                self._looker = threading.Thread(target=self._watch_over, name="fetch-pool", daemon=True)
                self._looker.start()
            now = self._clock()
            self.tuner.expect(self._hosts.first_byte_s(transfer.answer.host))
            self._tune(now)
            abandoned = self._act(now)
            self.guard.notify_all()
        _shut(abandoned)

    def withdraw(self, transfer: Transfer, *, within_s: float) -> bool:
        """End every connection of *transfer*.

        Returns:
            True when nothing writes to its file any more; False if that was not so *within_s*.
        """
        with self.guard:
            transfer.is_blocked = True
            if transfer in self._transfers:
                self._transfers.remove(transfer)
            abandoned = _abandon(transfer)
        _shut(abandoned)
        with self.guard:
            return self.guard.wait_for(lambda: not transfer.extents.claims, timeout=within_s)

    def is_hungry(self) -> bool:
        """Could the connections carry another file as well?"""
        with self.guard:
            missing = sum(
                end - start
                for transfer in self._transfers
                if not transfer.is_blocked
                for start, end in transfer.extents.missing
            )
            return missing < HUNGRY_BYTES * self.tuner.soon

    def watch(self, transfer: Transfer) -> int:
        """How many bytes of *transfer* are there."""
        with self.guard:
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
        abandoned: List[Claim] = []
        with self.guard:
            for transfer in self._transfers:
                transfer.is_blocked = True
                abandoned += _abandon(transfer)
            workers = list(self._workers.values())
            for worker in workers:
                worker.mailbox.put(None)
            self.guard.notify_all()
        _shut(abandoned)
        end = time.monotonic() + within_s
        for thread in [*(worker.thread for worker in workers), self._looker]:
            if thread is not None:
                thread.join(max(0.0, end - time.monotonic()))

    # -- the threads

    def _watch_over(self) -> None:
        """Look at everything again and again."""
        while not self._stopped.is_set():
            with self.guard:
                if not self._transfers:
                    self.guard.wait(IDLE_LOOK_S)
                try:
                    abandoned = self._look(self._clock()) if not self._stopped.is_set() else []
                except Exception as error:  # without it nobody would hand out anything, for ever
                    abandoned = []
                    for transfer in self._transfers:
                        transfer.fail(Failure("bug", f"{type(error).__name__}: {error}"))
            _shut(abandoned)
            self._stopped.wait(LOOK_S)

    def _work(self, worker: Worker) -> None:
        view = memoryview(bytearray(BUFFER if worker.number < LARGE_BUFFERS else SMALL_BUFFER))
        connection: Optional[request.Connection] = None
        try:
            while True:
                order = worker.mailbox.get()
                if order is None:
                    return
                transfer, claim = order
                connection = self._carry(worker, transfer, claim, view, connection)
        finally:
            if connection is not None:
                connection.close()

    def _carry(
        self,
        worker: Worker,
        transfer: Transfer,
        claim: Claim,
        view: memoryview,
        reuse: Optional[request.Connection],
    ) -> Optional[request.Connection]:
        failure: Optional[Failure] = None
        kept: Optional[request.Connection] = None
        try:
            kept = carry(
                transfer,
                claim,
                view,
                access=self._access,
                rate=self._rate,
                reuse=reuse,
                sleep=self._stopped.wait,
                learn_size=self._learn_size,
            )
        except Failure as error:
            failure = error
        except (
            Exception
        ) as error:  # a thread must not end silently: the driver reports it as the bug that it is
            failure = Failure("bug", f"{type(error).__name__}: {error}")
        finally:
            self._release(worker, transfer, claim, failure)
        return kept

    def _learn_size(self, transfer: Transfer, size: int) -> None:
        with self.guard:
            if transfer.extents.size is None:
                transfer.extents.learn_size(size)

    # -- bookkeeping; the lock is held

    def _release(self, worker: Worker, transfer: Transfer, claim: Claim, failure: Optional[Failure]) -> None:
        """*claim* is over: its connection is idle, and whoever is gets something to do."""
        with self.guard:
            now = self._clock()
            claim.let_go()
            self._observe(transfer, claim, now)
            if transfer.extents.size is None and failure is None and not claim.is_abandoned:
                transfer.extents.learn_size(claim.position)
            if failure is not None and not claim.is_abandoned and not transfer.is_blocked:
                self._note(transfer, claim, failure, now)
            transfer.extents.release(claim)
            transfer.bytes_done += claim.brought
            self._bytes_done += claim.brought
            host = transfer.answer.host
            self._host_done[host] = self._host_done.get(host, 0) + claim.brought
            self._late_done += claim.late
            if transfer.extents.is_complete:
                transfer.changed.set()
            worker.is_idle = True
            abandoned = self._act(now)
            self.guard.notify_all()
        _shut(abandoned)

    def _observe(self, transfer: Transfer, claim: Claim, now: float) -> None:
        """Learn how the host answers."""
        host = transfer.answer.host
        if not claim.is_observed and claim.landed_at is not None and claim.answered_at is not None:
            claim.is_observed = True
            if claim.is_reused or not self._hosts.first_byte_s(host):
                self._hosts.observe(host, first_byte_s=claim.answered_at - claim.began_at)
        took_s = now - (claim.landed_at or now)
        if claim not in transfer.extents.claims or claim.brought < MIB or took_s <= 0:
            return
        self._hosts.observe(host, rate=claim.brought / took_s)

    def _note(self, transfer: Transfer, claim: Claim, failure: Failure, now: float) -> None:
        host = transfer.answer.host
        if failure.class_ == "rate_limited":
            self._hosts.pause(host, failure.wait_s or 0.0)
        if failure.retriable and claim.answered_at is None:
            self._hosts.refused(host, self._view.open_to(host))
            transfer.not_before = now + REFUSED_PAUSE_S
        transfer.note(failure, claim)

    # -- looking and acting; the lock is held

    def _look(self, now: float) -> List[Claim]:
        """Take note of how all connections do, and act on it. Returns whose connections are to be shut."""
        for transfer in self._transfers:
            landed = transfer.bytes_landed
            if landed != transfer.landed_at_last_look:
                transfer.landed_at_last_look, transfer.landed_at = landed, now
            for claim in transfer.extents.claims:
                claim.sample(now)
        for host in {transfer.answer.host for transfer in self._transfers}:
            claims = [
                claim for each in self._transfers if each.answer.host == host for claim in each.extents.claims
            ]
            self._view.gauge(host).note(
                now,
                connections=sum(not claim.is_abandoned for claim in claims),
                answered=sum(claim.landed_at is not None for claim in claims),
                bytes_per_s=sum(claim.rate(now) for claim in claims),
                landed=self._host_done.get(host, 0) + sum(claim.brought for claim in claims),
            )
        self._tune(now)
        return self._act(now)

    def _tune(self, now: float) -> None:
        """Have as many threads as connections are wanted now."""
        claims = [claim for each in self._transfers for claim in each.extents.claims]
        landed = self._bytes_done + sum(claim.brought for claim in claims)
        late = self._late_done + sum(claim.late for claim in claims)
        self.tuner.tick(now, landed, late, is_full=self._view.is_full(now))
        for number in range(self.tuner.connections):
            if number not in self._workers and not self._stopped.is_set():
                self._workers[number] = worker = Worker(number)
                worker.thread = threading.Thread(
                    target=self._work, args=(worker,), name=f"fetch-{number}", daemon=True
                )
                worker.thread.start()
        for number in [number for number in self._workers if number >= self.tuner.connections]:
            if self._workers[number].is_idle:
                self._workers.pop(number).mailbox.put(None)

    def _act(self, now: float) -> List[Claim]:
        """Do what is decided. Returns whose connections are to be shut."""
        idle = [worker for worker in self._workers.values() if worker.is_idle]
        idle = [worker for worker in idle if worker.number < self.tuner.connections]
        if self._stopped.is_set() or not self._transfers:
            return []
        state = self._view.state(now, len(idle))
        transfers = {id(each): each for each in self._transfers}
        claims = {id(claim): claim for each in self._transfers for claim in each.extents.claims}
        abandoned: List[Claim] = []
        for action in decisions.decide(state):
            transfer = transfers[action.file]
            if isinstance(action, Close):
                claims[action.piece].abandon()
                abandoned.append(claims[action.piece])
                transfer.closes += 1
                continue
            if isinstance(action, Assign):
                claim = transfer.extents.take(action.start, action.end, now)
            elif isinstance(action, Cut):
                cut = claims[action.piece]
                claim = transfer.extents.split(cut, max(action.at, cut.reached), now)
                if cut.left == 0:
                    cut.abandon()
                    abandoned.append(cut)
                    transfer.closes += 1
            claims[id(claim)] = claim
            worker = idle.pop(0)
            worker.is_idle = False
            worker.mailbox.put((transfer, claim))
        return abandoned


def _abandon(transfer: Transfer) -> List[Claim]:
    claims = list(transfer.extents.claims)
    for claim in claims:
        claim.abandon()
    return claims


def _shut(claims: List[Claim]) -> None:
    for claim in claims:
        claim.shut()
