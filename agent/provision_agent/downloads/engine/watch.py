"""Stay with a transfer until all its bytes are there: tell how it goes, and end it when it does not."""

from __future__ import annotations

import time

from ...contract.failures import Failure
from ...run.context import Report
from ..hosts import Hosts
from ..progress import Progress
from ..source_selector import Source
from ..time_budget import Allowance
from .pool import Pool
from .transfer import PROGRESS_BYTES, Changed, Transfer

TICK_S = 0.25


class Watch:
    """Waits for one transfer. Used by the file's driver."""

    def __init__(
        self,
        transfer: Transfer,
        source: Source,
        *,
        pool: Pool,
        hosts: Hosts,
        progress: Progress,
        allowance: Allowance,
        report: Report,
    ) -> None:
        self._transfer = transfer
        self._source = source
        self._pool = pool
        self._hosts = hosts
        self._progress = progress
        self._allowance = allowance
        self._report = report
        self._bumps_told = 0
        self._bump_told_at = 0.0

    def wait(self) -> None:
        """Return when all bytes are there.

        Raises:
            Failure: what stopped it, `stalled` or `timed_out`; it has been counted whether the attempt got somewhere.
            Stopped, TimeUp: as `Allowance.check`.
        """
        transfer = self._transfer
        try:
            while not transfer.extents.is_complete:
                transfer.changed.wait(TICK_S)
                transfer.changed.clear()
                self._progress.note(self._pool.watch(transfer))
                self._tell_bumps()
                if transfer.trouble is not None:
                    raise transfer.trouble
                self._allowance.check()
                self._check_speed()
        except Failure as failure:
            self._count_progress(failure)
            raise
        self._progress.finish(transfer.extents.landed)

    def _check_speed(self) -> None:
        transfer, host, stall = self._transfer, self._transfer.answer.host, self._transfer.limits.stall
        if not transfer.extents.claims:
            # nothing is asked for, so nothing can be slow
            self._progress.restart_window()
            wait_s = self._hosts.paused_s(host)
            if wait_s > 0 and not transfer.extents.is_complete:
                raise Failure("rate_limited", f"{host} wants to be left alone", host=host, wait_s=wait_s)
            return
        speed = self._progress.stalled(self._pool.fair_share(stall.below_bytes_per_s))
        if speed is not None:
            self._report("stalled", bytes_per_s=round(speed), for_s=stall.for_s)
            raise Failure(
                "stalled", f"{host} sent {speed / 1024:.0f} KiB/s over the last {stall.for_s:.0f} s"
            )
        attempt_s = transfer.limits.attempt_s
        if time.monotonic() - max(transfer.landed_at, self._progress.began_at) > attempt_s:
            raise Failure("timed_out", f"{host} sent no byte for {attempt_s:.0f} s")

    def _count_progress(self, failure: Failure) -> None:
        """An attempt that got somewhere starts the source's count anew."""
        transfer = self._transfer
        is_enough = transfer.bytes_landed >= PROGRESS_BYTES
        if failure.class_ == "stalled":
            is_enough = is_enough and self._progress.average() >= transfer.limits.stall.below_bytes_per_s
        if is_enough and not transfer.is_single and not isinstance(failure, Changed):
            self._source.made_progress()

    def _tell_bumps(self) -> None:
        """One connection's trouble while others go on: said now and then, but no attempt."""
        bumps = self._transfer.bumps[self._bumps_told :]
        self._bumps_told += len(bumps)
        for failure in bumps:
            if time.monotonic() - self._bump_told_at < 1.0:
                break
            self._bump_told_at = time.monotonic()
            if failure.class_ == "rate_limited":
                self._report(
                    "waiting", host=failure.facts.get("host"), wait_s=round(failure.wait_s or 0.0, 3)
                )
            else:
                self._report("retried", attempt=0, wait_s=0.0, **{"class": failure.class_})
