"""How long an instance has been up, by a clock that nobody sets: neither its own nor the run's end depends on the date."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from ..contract.parsing import bounded
from ..host import process_stat
from ..host.detach import boot_id

TRUSTED_GAP_S = 60.0
"""A longer time in which nobody looked is no idle time: who knows what went on."""


@dataclass(frozen=True)
class Moment:
    """A point in the life of one start of an instance."""

    boot: str = bounded("", max_chars=128)
    """Which start it is: of the machine, and of the container in it."""
    at_s: float = bounded(0.0, low=0, high=1e12)
    """Seconds of that machine's boot-time clock, which goes on in a suspended one."""

    @classmethod
    def now(cls) -> Moment:
        """This very moment."""
        return cls(f"{boot_id()}:{_first_process_ticks()}", time.clock_gettime(time.CLOCK_BOOTTIME))

    def since(self, earlier: Moment, up_since_s: float) -> float:
        """Seconds of life between *earlier* and this.

        Of a start before this one only what was measured counts, and then all since this start: while an instance is
        stopped it costs no GPU time.

        Args:
            up_since_s: When this start began, by the same clock.
        """
        begin_s = earlier.at_s if earlier.boot == self.boot else up_since_s
        return max(0.0, self.at_s - begin_s)


def up_since_s() -> float:
    """When the first process of this instance began, in seconds of the boot-time clock."""
    return _first_process_ticks() / float(os.sysconf("SC_CLK_TCK"))


def _first_process_ticks() -> int:
    found = process_stat.read(1)
    return 0 if found is None else found.start_ticks
