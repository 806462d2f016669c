"""How fast bytes come over the line of this machine, measured against the servers that it will be asked to fetch from."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable, Deque, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ..contract.failures import Failure
from .sources import addresses
from .sources.lookup import Answer, Sources

CONNECTIONS = 8
TRY_S = 6.0
"""One server is measured for so long at most; one that is fast enough for less."""
WINDOW_S = 2.0
"""The rate is that of the best time of this length: a slow start, or a pause of the server, is not the line's."""
ASK_S = 10.0
MOST_HOSTS = 3
LEAST_BYTES = 4 << 20
"""A smaller file says nothing of a line."""
_LEAST_S = 1.0
_PIECE = 256 * 1024


class Line(NamedTuple):
    """What came from the best server; `why` says why nothing could be measured."""

    bytes_per_s: float = 0.0
    host: str = ""
    why: str = ""


def measure(
    urls: Sequence[str],
    sources: Sources,
    *,
    wanted_bytes_per_s: int,
    deadline: float,
    is_over: Callable[[], bool] = lambda: False,
) -> Line:
    """Fetch from one server after the other until one brings what is wanted; nothing is kept.

    Args:
        urls: Files; of one host the first that is large enough is fetched.
        deadline: On the monotonic clock.
        is_over: Nobody wants to know any more.

    Returns:
        The best of what was measured. What a server refuses, or whom nobody reaches, says nothing of the line.
    """
    best: Optional[Line] = None
    why: List[str] = []
    hosts: List[str] = []
    for url in urls:
        host = urlsplit(addresses.address_of(url)).hostname or ""
        if host in hosts or len(hosts) >= MOST_HOSTS or is_over() or time.monotonic() > deadline - _LEAST_S:
            continue
        try:
            answer = sources.ask(url, within_s=min(ASK_S, deadline - time.monotonic()), stop=is_over)
            if answer.size_bytes is None or answer.size_bytes < LEAST_BYTES:
                why.append(f"the file at {host} is too small")
                continue
            rate = _Pull(answer, sources, wanted_bytes_per_s, deadline, is_over).rate()
        except Failure as failure:
            why.append(failure.message)
            hosts.append(host)
            continue
        hosts.append(host)
        if best is None or rate > best.bytes_per_s:
            best = Line(rate, host)
        if rate >= wanted_bytes_per_s:
            break
    return best or Line(why="; ".join(dict.fromkeys(why)) or "there is no file to measure it with")


class _Pull:
    """Several connections fetch stretches of one file and drop them."""

    def __init__(
        self,
        answer: Answer,
        sources: Sources,
        wanted_bytes_per_s: int,
        deadline: float,
        is_over: Callable[[], bool],
    ) -> None:
        self._answer = answer
        self._sources = sources
        self._wanted = wanted_bytes_per_s
        self._end = min(deadline, time.monotonic() + TRY_S)
        self._first_window = time.monotonic() + WINDOW_S
        self._is_over = is_over
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._bytes = 0
        self._failures: List[Failure] = []

    def rate(self) -> float:
        """Bytes per second. Raises Failure where no connection brought a byte."""
        count = CONNECTIONS if self._answer.has_ranges else 1
        share = (self._answer.size_bytes or 0) // count
        spans = [(number * share, (number + 1) * share) for number in range(count)]
        threads = [threading.Thread(target=self._fetch, args=(span,), daemon=True) for span in spans]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            best = self._watch(began, threads)
        finally:
            self._stop.set()
        if self._bytes == 0 and self._failures:
            raise self._failures[0]
        return best

    def _watch(self, began: float, threads: Sequence[threading.Thread]) -> float:
        """The best rate of any window; as soon as one is good enough that one."""
        seen: Deque[Tuple[float, int]] = deque([(began, 0)])
        best = 0.0
        while time.monotonic() < self._end and not self._is_over():
            is_last = not any(thread.is_alive() for thread in threads)
            self._stop.wait(0.05)
            now, count = time.monotonic(), self._bytes
            seen.append((now, count))
            while len(seen) > 2 and seen[1][0] <= now - WINDOW_S:
                seen.popleft()
            if self._is_enough(count - seen[0][1]):
                return (count - seen[0][1]) / (now - seen[0][0])
            if now - seen[0][0] >= _LEAST_S or is_last:
                best = max(best, (count - seen[0][1]) / (now - seen[0][0]))
            if is_last:
                break
        return best

    def _is_enough(self, in_window: int) -> bool:
        """Would what came within a window be enough for all of it?"""
        return in_window >= self._wanted * WINDOW_S

    def _fetch(self, span: Tuple[int, int]) -> None:
        view = memoryview(bytearray(_PIECE))
        wanted = span if self._answer.has_ranges else None
        try:
            while not self._is_done():
                response, _ = self._sources.open(
                    self._answer.url, span=wanted, deadline=self._end, connect_s=ASK_S, stop=self._is_done
                )
                try:
                    response.prepare(WINDOW_S)
                    while not response.at_end and not self._is_done():
                        count = response.fill(view)
                        with self._lock:
                            self._bytes += count
                        if time.monotonic() < self._first_window and self._is_enough(self._bytes):
                            self._stop.set()
                finally:
                    response.close()
        except Failure as failure:
            self._failures.append(failure)

    def _is_done(self) -> bool:
        return self._stop.is_set() or time.monotonic() > self._end or self._is_over()
