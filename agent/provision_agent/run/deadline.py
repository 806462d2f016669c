"""A run's deadline, which neither a restart of the agent nor a jump of the wall clock can move."""

from __future__ import annotations

import time
from typing import Optional

from ..contract.plan_parts import MAX_WAIT_S
from ..host.detach import boot_id


class RunClock:
    """Counts from `run_started`. Within one boot by the boot-time clock, across a reboot by the wall clock.

    Once `stop` was called, after `stopped_after_s`, the deadline does not come any more.
    """

    def __init__(
        self,
        deadline_s: float,
        *,
        started_unix: float,
        started_boot_s: float,
        boot: str,
        stopped_after_s: Optional[float] = None,
    ) -> None:
        self.deadline_s = deadline_s
        self.stopped_after_s = stopped_after_s
        self.started_unix = started_unix
        self.started_boot_s = started_boot_s
        self.boot_id = boot

    @classmethod
    def starting_now(cls, deadline_s: float) -> RunClock:
        """The clock of a run that starts at this moment."""
        return cls(deadline_s, started_unix=time.time(), started_boot_s=_boot_s(), boot=boot_id())

    def elapsed_s(self) -> float:
        """Seconds since the run started."""
        if self.boot_id == boot_id():
            return _boot_s() - self.started_boot_s
        return max(0.0, time.time() - self.started_unix)

    def remaining_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        if self.stopped_after_s is not None:
            return MAX_WAIT_S
        return self.deadline_s - self.elapsed_s()

    def stop(self) -> None:
        """From now on the run may take as long as it likes."""
        if self.stopped_after_s is None:
            self.stopped_after_s = max(0.0, self.elapsed_s())


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
