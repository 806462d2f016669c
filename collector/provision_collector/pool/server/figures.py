"""What the runs of a pool took, by profile and by card: counted when they end, for Prometheus. Begins anew with the process."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from provision_agent.contract.events import JsonObject
from provision_agent.contract.findings import Facts
from provision_agent.contract.parsing import ParseError, parse

BOUNDS_S = (5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 450, 600, 900, 1800, 3600, 7200)
MOST_SERIES = 200
"""Of profiles and cards together; what comes after them counts as `other`."""
OTHER = ("other", "other")
_NAME_CHARS = 100
_GOOD = ("complete", "incomplete")

Series = tuple[str, str]
"""A profile, and the card of the instances."""


@dataclass
class _Times:
    """A histogram."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


class Figures(Collector):
    """The figures of one pool. Read from another thread than it is written from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[Series] = set()
        self._times: dict[str, dict[Series, _Times]] = {"usable": {}, "complete": {}}
        self._failed_s: dict[tuple[str, str, str], float] = {}
        self._ended: Counter[tuple[str, str, str]] = Counter()
        self._unfit: Counter[Series] = Counter()

    def count(
        self, outcome: JsonObject, facts: Mapping[str, object], *, profile: str, billed_s: float
    ) -> None:
        """A run has ended.

        Args:
            outcome: How.
            facts: What its instance said that it is.
            profile: What it was to become.
            billed_s: How long the instance was this run's, in seconds: from the order to the outcome.
        """
        verdict = str(outcome.get("verdict"))
        with self._lock:
            series = self._series((profile[:_NAME_CHARS], card_of(facts)))
            self._ended[*series, verdict] += 1
            self._unfit[series] += _is_unfit(outcome)
            self._observe("usable", series, outcome.get("usable_after_s"))
            if verdict == "complete":
                self._observe("complete", series, outcome.get("duration_s"))
            if verdict not in _GOOD:
                failed = (*series, verdict)
                self._failed_s[failed] = self._failed_s.get(failed, 0.0) + max(billed_s, 0.0)

    def _series(self, wanted: Series) -> Series:
        if wanted not in self._known and len(self._known) >= MOST_SERIES:
            return OTHER
        self._known.add(wanted)
        return wanted

    def _observe(self, what: str, series: Series, seconds: object) -> None:
        if isinstance(seconds, int | float):
            self._times[what].setdefault(series, _Times()).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """The metrics, as Prometheus has them."""
        with self._lock:
            for what, text in (
                ("usable", "From a run's start to usable."),
                ("complete", "From a run's start to complete."),
            ):
                yield self._histogram(f"provision_run_{what}_seconds", text, self._times[what])
            billed = CounterMetricFamily(
                "provision_failed_runs_billed_seconds",
                "How long instances were paid for whose run came to nothing, from the order to the outcome.",
                labels=["profile", "card", "verdict"],
            )
            for labels, seconds in sorted(self._failed_s.items()):
                billed.add_metric(labels, seconds)
            yield billed
            ended = CounterMetricFamily(
                "provision_profile_runs_ended", "Runs that have ended.", labels=["profile", "card", "verdict"]
            )
            for labels, count in sorted(self._ended.items()):
                ended.add_metric(labels, count)
            yield ended
            unfit = CounterMetricFamily(
                "provision_instances_refused",
                "Runs that ended early because their instance is not what the profile's `require` asks for.",
                labels=["profile", "card"],
            )
            for series, count in sorted(self._unfit.items()):
                unfit.add_metric(series, count)
            yield unfit

    def _histogram(self, name: str, text: str, found: Mapping[Series, _Times]) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, text, labels=["profile", "card"])
        bounds = [*map(str, map(float, BOUNDS_S)), "+Inf"]
        for series, times in sorted(found.items()):
            family.add_metric(series, list(zip(bounds, accumulate(times.counts), strict=True)), times.sum_s)
        return family


def _is_unfit(outcome: JsonObject) -> bool:
    """Whether the instance fell short of what its profile's `require` asks for."""
    errors = outcome.get("errors")
    return isinstance(errors, list) and any(
        isinstance(error, dict) and error.get("class") == "unfit" for error in errors
    )


def card_of(facts: Mapping[str, object]) -> str:
    """The class of a host: its first card, with the number of cards where it has several; `none` without one."""
    try:
        gpus = parse(Facts, {"gpus": facts.get("gpus") or []}, "facts").gpus
    except ParseError:
        return "unknown"
    if not gpus:
        return "none" if facts else "unknown"
    name = gpus[0].name[:_NAME_CHARS]
    return f"{len(gpus)}x {name}" if len(gpus) > 1 else name
