"""The time that one file may take, and every wait that it does.

A wait ends when the run does. Deadlines nest: an attempt's in the transfer, the file's here, the run's in the context.
"""

from __future__ import annotations

import time
from typing import Callable, Optional

from ..contract.failures import Failure
from ..run.context import Context, Report
from .hosts import Hosts

SHORTEST_FILE_S = 900.0
SLOWEST_USEFUL_BYTES_PER_S = 1_000_000
THROTTLED_AT_MOST_S = 600.0
"""How long a file may wait, all told, because hosts say *later*."""
LOOK_UP_EVERY_S = 0.25


class Stopped(Exception):
    """The run ends; this is nobody's failure."""


class TimeUp(Failure):
    """The file's own time is over: no other source is tried."""


class Allowance:
    """Counts from its making. Used by one file's driver."""

    def __init__(self, context: Context, hosts: Hosts, file_s: Optional[float]) -> None:
        self._context = context
        self._hosts = hosts
        self._file_s = file_s
        self._throttled_s = 0.0
        self.began_at = time.monotonic()
        self.size_bytes: Optional[int] = None
        """The file's size once it is known: a large one may take longer."""
        self.is_moving: Callable[[], bool] = lambda: False
        """Do bytes land fast enough to be waited for?"""

    def is_stopped(self) -> bool:
        """Is the run over?"""
        return self._context.is_over()

    def check(self) -> None:
        """Return while there is time.

        Raises:
            Stopped: the run is over.
            TimeUp: the file's time is; without a limit of its own never while it moves.
        """
        if self.is_stopped():
            raise Stopped
        passed_s = time.monotonic() - self.began_at
        automatic_s = max(SHORTEST_FILE_S, (self.size_bytes or 0) / SLOWEST_USEFUL_BYTES_PER_S)
        limit_s = automatic_s if self._file_s is None else self._file_s
        if passed_s > limit_s and not (self._file_s is None and self.is_moving()):
            raise TimeUp("timed_out", f"not finished within {limit_s:.0f} s", limit_s=limit_s)

    def sleep(self, wait_s: float) -> None:
        """Wait, but not past any deadline; raises as `check`."""
        end = time.monotonic() + wait_s
        self.check()
        while time.monotonic() < end:
            self._context.cancelled.wait(min(LOOK_UP_EVERY_S, max(0.0, end - time.monotonic())))
            self.check()

    def await_host(self, host: str, report: Report) -> None:
        """Leave *host* alone for as long as it wants; that is no attempt, but has a bound of its own.

        Raises:
            Failure: `rate_limited`, when the waits for this file became too long together.
        """
        wait_s = self._hosts.paused_s(host)
        if wait_s <= 0:
            return
        self._throttled_s += wait_s
        if self._throttled_s > THROTTLED_AT_MOST_S:
            raise TimeUp(
                "rate_limited", f"{host} said *later* for {THROTTLED_AT_MOST_S / 60:.0f} minutes", host=host
            )
        report("waiting", host=host, wait_s=round(wait_s, 3))
        self.sleep(wait_s)
