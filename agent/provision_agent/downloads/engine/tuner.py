"""How many connections and files at once: more while that makes the whole faster, back when it does not.

It begins with a few. Where bytes come in faster than they are taken, this machine is the limit and not the line: it
stays with a few, because more would bring nothing and cost more (one connection per file brings the bytes in the
order in which they are hashed).
"""

from __future__ import annotations

import os
from typing import NamedTuple, Optional

FILES, FILES_MOST = 4, 8
PER_FILE, PER_FILE_MOST = 8, 16
CONNECTIONS_MOST = 64
FEW_MOST = 16
GROWTH = 2
WORTH_IT = 1.10
"""More connections are kept if they make the whole this much faster."""
HARMLESS = 0.90
"""Fewer connections are kept if the whole stays this fast."""
FIRST_LOOK_S, FIRST_WINDOW_S, WINDOW_S, AGAIN_AFTER_S = 0.14, 0.09, 0.5, 30.0
FAR_S = 0.05
"""Who answers later than this is far away: then the line is the limit, and no few connections are tried first."""
SILENT_S = 0.3
"""How long the first byte is waited for before the first judgement."""
SETTLE_S = 0.25
"""New connections must have been opened before their number can be judged."""
LATE_SHARE = 0.7
"""If more of the bytes than this find others waiting behind them, this machine is the limit."""


class Setting(NamedTuple):
    """How many at once."""

    files: int
    per_file: int
    connections: int


class Mark(NamedTuple):
    """Where things stood at a moment."""

    at: float
    landed: int
    late: int


class Trial(NamedTuple):
    """A change on trial: what was before, and how fast it must be to stay."""

    before: Setting
    must_reach: float


class Tuner:
    """Watches the throughput and moves `files`, `per_file` and `connections` within the caller's limits.

    Args:
        files: The most files at once; None: 4, and more if that helps.
        connections: The most connections per file; None: 8, and more if that helps.
    """

    def __init__(self, files: Optional[int], connections: Optional[int]) -> None:
        files_most, per_file_most = files or FILES_MOST, connections or PER_FILE_MOST
        self._most = Setting(files_most, per_file_most, min(files_most * per_file_most, CONNECTIONS_MOST))
        per_file = min(PER_FILE, per_file_most)
        at_once = files or FILES
        self._usual = Setting(at_once, per_file, min(at_once * per_file, CONNECTIONS_MOST))
        few = min(max(FILES, cores()), FEW_MOST, self._usual.connections)
        self._few = self._usual._replace(connections=few)
        self._now = self._few
        self._is_limited = connections is not None
        self._is_judged = False
        self._was_limit = False
        self.is_line_full = False
        """The last time that more connections were tried, they brought nothing."""
        self._window: Optional[Mark] = None
        self._window_s = FIRST_LOOK_S
        self._trial: Optional[Trial] = None
        self._rest_until: Optional[float] = None
        self._settled_at = 0.0

    def expect(self, first_byte_s: float) -> None:
        """Before the first `tick`: the first answers took *first_byte_s*."""
        if self._rest_until is None and first_byte_s >= FAR_S:
            self._now = self._usual

    @property
    def files(self) -> int:
        return self._now.files

    @property
    def per_file(self) -> int:
        return self._now.per_file

    @property
    def connections(self) -> int:
        return self._now.connections

    @property
    def soon(self) -> int:
        """How many connections there may be in a moment."""
        return self.connections if self.is_machine_bound else self._larger().connections

    @property
    def usual(self) -> int:
        """How many connections it has where the line is the limit, as far as is known before it is tried."""
        return self._usual.connections

    @property
    def is_machine_bound(self) -> bool:
        """Is this machine the limit, as has been seen?"""
        return self.is_few and self._is_judged

    @property
    def may_exceed(self) -> bool:
        """May a file have more than `per_file` connections, if there are too few files for all of them?"""
        return not self._is_limited and self.connections > self._usual.connections

    @property
    def is_few(self) -> bool:
        """Is this machine the limit, as far as is known?"""
        return self._now == self._few != self._usual

    def tick(self, now: float, landed: int, late: int, *, is_full: bool) -> None:
        """Take note of how things stand: once when the first file begins, then a few times a second.

        Args:
            landed: Bytes in all.
            late: Those of them that left others waiting behind them.
            is_full: All connections that may be open are, and bring something; else their number is not what limits
                the speed.
        """
        if self._rest_until is None:
            self._rest_until = now + AGAIN_AFTER_S if self.is_few else now
        if now < self._settled_at or not (is_full or self.is_few):
            self._window = None
        elif self._window is None:
            self._window = Mark(now, landed, late)
        elif not self._is_judged and landed == self._window.landed and now - self._window.at < SILENT_S:
            return  # connections are still being opened
        elif now - self._window.at >= self._window_s:
            before, self._window = self._window, Mark(now, landed, late)
            is_limit = late - before.late > LATE_SHARE * (landed - before.landed)
            self._judge((landed - before.landed) / (now - before.at), is_limit, now)

    def _judge(self, speed: float, is_limit: bool, now: float) -> None:
        assert self._rest_until is not None
        self._is_judged = True
        # new connections bring a burst: whether this machine is the limit shows in the second window
        is_limit, self._was_limit = is_limit and (self.is_few or self._was_limit), is_limit
        trial, self._trial = self._trial, None
        if self.is_few and not is_limit:
            self._now, self._window_s, self._rest_until = self._usual, FIRST_WINDOW_S, now
        elif trial is not None and speed < trial.must_reach:
            self.is_line_full = trial.before != self._few and self._now != self._few
            self._now, self._rest_until = trial.before, now + AGAIN_AFTER_S
        elif trial is not None and self.is_few:
            self._rest_until = now + AGAIN_AFTER_S
        elif now >= self._rest_until and (self.is_few or not is_limit):
            self._try(self._larger(), speed * WORTH_IT, now)
        elif now >= self._rest_until:
            self._try(self._few, speed * HARMLESS, now)

    def _try(self, setting: Setting, must_reach: float, now: float) -> None:
        if setting != self._now and must_reach > 0:
            self.is_line_full = False
            self._trial = Trial(self._now, must_reach)
            self._now = setting
            self._window_s, self._settled_at = WINDOW_S, now + SETTLE_S

    def _larger(self) -> Setting:
        if self.is_few:
            return self._usual
        return Setting(*(min(int(count * GROWTH), most) for count, most in zip(self._now, self._most)))


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
