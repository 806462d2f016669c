"""Account of what each step did: which items failed, at which level, and what verdict that makes."""

from __future__ import annotations

import threading
import time
from typing import Dict, Iterable, List, Set, Tuple

from ..contract.failures import Failure
from .context import Report


class Tally:
    """Counts items per step and reports the steps' events. Thread-safe."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._started: Dict[str, float] = {}
        self._ok: Set[Tuple[str, str]] = set()
        self._skipped: Set[Tuple[str, str]] = set()
        self._failed: Dict[Tuple[str, str], Tuple[str, Failure]] = {}

    def start(self, step: str) -> None:
        """Say that *step* began; only the first time counts."""
        with self._lock:
            is_new = step not in self._started
            self._started.setdefault(step, time.monotonic())
        if is_new:
            self._report("step_started", step=step)

    def succeed(self, step: str, item: str) -> None:
        """*item* is there; an earlier failure of it is forgotten."""
        with self._lock:
            self._failed.pop((step, item), None)
            self._ok.add((step, item))

    def skip(self, step: str, item: str) -> None:
        """*item* was not wanted here."""
        with self._lock:
            self._skipped.add((step, item))

    def fail(
        self,
        step: str,
        item: str,
        level: str,
        failure: Failure,
        *,
        kind: str = "step",
        is_reported: bool = False,
    ) -> None:
        """*item* cannot be had.

        Args:
            item: Its key; of the kind `step` the step's own name.
            level: One of `LEVELS`: what its failure means for the verdict.
            kind: It is reported as ``<kind>_failed``.
            is_reported: That has been done.
        """
        with self._lock:
            self._ok.discard((step, item))
            self._failed[(step, item)] = (level, failure)
        if is_reported:
            return
        naming = {"step": item} if kind == "step" else {"item": item}
        self._report(f"{kind}_failed", level=level, **naming, **failure.as_fields())

    def finish(self, *steps: str) -> None:
        """Report the end of each of *steps* that began and has not ended yet."""
        with self._lock:
            ended = [(step, at) for step, at in self._started.items() if step in steps]
            self._started = {step: at for step, at in self._started.items() if (step, at) not in ended}
            counts = {step: self._counts(step) for step, _ in ended}
        for step, at in sorted(ended, key=lambda pair: pair[1]):
            duration_s = round(time.monotonic() - at, 3)
            self._report("step_finished", step=step, duration_s=duration_s, **counts[step])

    def _counts(self, step: str) -> Dict[str, int]:
        """How many items of *step* ended how; the lock is held."""
        groups: Tuple[Tuple[str, Iterable[Tuple[str, str]]], ...] = (
            ("ok", self._ok),
            ("failed", self._failed),
            ("skipped", self._skipped),
        )
        return {name: sum(1 for owner, _ in items if owner == step) for name, items in groups}

    def _failures(self) -> List[Tuple[str, str, str, Failure]]:
        """Step, item, level and failure of all that is missing at one moment."""
        with self._lock:
            return [(step, item, level, why) for (step, item), (level, why) in self._failed.items()]

    def is_failed(self, step: str, item: str) -> bool:
        """True when *item* of *step* is known to be missing."""
        with self._lock:
            return (step, item) in self._failed

    def has_failed(self, level: str) -> bool:
        """True when anything of *level* is missing."""
        return any(found == level for _, _, found, _ in self._failures())

    def needed(self) -> List[str]:
        """What is missing of all that is critical or required."""
        return [item for _, item, level, _ in self._failures() if level != "optional"]

    def missing_checks(self, level: str) -> Dict[str, object]:
        """The checks of *level* that failed, with what each found."""
        return {
            item: failure.facts.get("found", failure.message)
            for step, item, found, failure in self._failures()
            if step == "checks" and found == level
        }

    def verdict(self, has_critical: bool) -> str:
        """`failed` without something critical, `incomplete` or `failed` without something required, else `complete`."""
        missing = {level for _, _, level, _ in self._failures()}
        if "critical" in missing:
            return "failed"
        if "required" in missing:
            return "incomplete" if has_critical else "failed"
        return "complete"
