"""How politely each source host is spoken to: how many files, how many connections, when to leave it alone.

A host that says *later* is left alone by everybody until then, and only that host. One that refuses connections
gets half as many, and slowly more again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, Mapping, Optional, Sequence, Tuple

from ..contract import source_kinds
from ..contract.plan_parts import HostLimits

LOOKUPS_AT_ONCE = 8
"""Questions for size and hash that one host is asked at a time."""
ONE_MORE_AFTER_S = 5.0
"""How long a host must take all connections well before it is offered one more."""


@dataclass
class _Host:
    paused_until: float = 0.0
    allowed: Optional[int] = None
    changed_at: float = 0.0
    first_byte_s: float = 0.0
    rate: float = 0.0
    lookups: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(LOOKUPS_AT_ONCE))


class Hosts:
    """What is known of every host. Safe to use from any thread."""

    def __init__(self, limits: Mapping[str, HostLimits], clock: Callable[[], float] = time.monotonic) -> None:
        self._own = source_kinds.own_limits(limits)
        self._connection_caps: Dict[Tuple[str, ...], Optional[int]] = {}
        self._clock = clock
        self._hosts: Dict[str, _Host] = {}
        self._lock = threading.Lock()

    def may_begin(self, hosts: Sequence[str], busy: Iterable[Sequence[str]]) -> bool:
        """May one more file be fetched by way of *hosts*, beside those that come by way of *busy*?"""
        caps, going = source_kinds.caps(self._own, "files", *hosts), list(busy)
        return all(
            sum(any(source_kinds.is_below(host, cap.host) for host in each) for each in going) < cap.most
            for cap in caps
        )

    def connections_cap(self, *hosts: str) -> Optional[int]:
        """The most connections of a file that is had by way of *hosts*; None: no cap."""
        with self._lock:
            if hosts not in self._connection_caps:
                caps = source_kinds.caps(self._own, "connections", *hosts)
                self._connection_caps[hosts] = min((cap.most for cap in caps), default=None)
            return self._connection_caps[hosts]

    def pause(self, host: str, wait_s: float) -> None:
        """*host* wants to be left alone for *wait_s*."""
        with self._lock:
            entry = self._entry(host)
            entry.paused_until = max(entry.paused_until, self._clock() + wait_s)

    def paused_s(self, host: str) -> float:
        """How much longer *host* wants to be left alone."""
        with self._lock:
            return max(0.0, self._entry(host).paused_until - self._clock())

    def refused(self, host: str, connections: int) -> None:
        """*host* turned a connection away while *connections* others were open: offer it half."""
        with self._lock:
            entry = self._entry(host)
            now = self._clock()
            if entry.allowed is None or now - entry.changed_at >= 1.0:
                entry.allowed = max(1, min(connections, entry.allowed or connections) // 2)
                entry.changed_at = now

    def allowed(self, host: str) -> Optional[int]:
        """The most connections to *host* in all, as learnt; None: nothing speaks against more."""
        with self._lock:
            entry = self._entry(host)
            if entry.allowed is not None and self._clock() - entry.changed_at >= ONE_MORE_AFTER_S:
                entry.allowed += 1
                entry.changed_at = self._clock()
            return entry.allowed

    def observe(self, host: str, *, first_byte_s: float = 0.0, rate: float = 0.0) -> None:
        """Learn how *host* answers: moving averages of the wait for the first byte and of a connection's speed."""
        with self._lock:
            entry = self._entry(host)
            if first_byte_s:
                entry.first_byte_s = 0.7 * (entry.first_byte_s or first_byte_s) + 0.3 * first_byte_s
            if rate:
                entry.rate = 0.7 * (entry.rate or rate) + 0.3 * rate

    def first_byte_s(self, host: str) -> float:
        """How long the first byte of an answer takes, connecting included; 0 when not known."""
        with self._lock:
            return self._entry(host).first_byte_s

    def rate(self, host: str) -> float:
        """Bytes per second of one connection; 0 when not known."""
        with self._lock:
            return self._entry(host).rate

    def lookups(self, host: str) -> threading.Semaphore:
        """Held while *host* is asked about a file."""
        with self._lock:
            return self._entry(host).lookups

    def _entry(self, host: str) -> _Host:
        return self._hosts.setdefault(host, _Host())


class Rate:
    """A cap on the bytes per second of all connections together."""

    def __init__(self, bytes_per_s: Optional[int], clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._free_at = 0.0
        self._lock = threading.Lock()

    @property
    def slice_bytes(self) -> Optional[int]:
        """The most to read in one go, so that the cap is kept smoothly."""
        return None if self.bytes_per_s is None else max(4096, self.bytes_per_s // 16)

    def take(self, count: int) -> float:
        """*count* bytes have come: the seconds to wait before reading more."""
        if self.bytes_per_s is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - 0.1) + count / self.bytes_per_s
            return max(0.0, self._free_at - now)
