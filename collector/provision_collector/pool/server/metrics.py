"""Numbers for Prometheus, read from the pool when they are asked for; counters count since this process began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from provision_agent.contract.status_parts import Totals

from ...distribution import version
from ..instances import STATES as INSTANCE_STATES
from ..store.rows import ENDED, STATES
from .figures import Figures
from .loop_watch import BOUNDS_S, LoopWatch
from .view import View

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(
    *,
    going: Iterable[View],
    ended: Mapping[str, int],
    events: Mapping[str, int],
    clients: int,
    loop: LoopWatch,
    figures: Figures,
    instances: Mapping[str, int],
) -> bytes:
    """The metrics in Prometheus' text format: of the runs, and of this process. It adds up every file: not for the event loop.

    Args:
        going: The views of the unfinished runs.
        ended: How many runs ended since this process began, by verdict.
        events: How many events were told since then, by name.
        clients: How many clients follow a stream now.
        loop: How late the event loop was.
        figures: What the runs that ended took.
        instances: How many instances are watched, by state.
    """
    registry = CollectorRegistry()
    registry.register(_Now(list(going), ended, events, clients, instances))
    registry.register(_Loop(loop))
    registry.register(figures)
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Now(Collector):
    def __init__(
        self,
        going: list[View],
        ended: Mapping[str, int],
        events: Mapping[str, int],
        clients: int,
        instances: Mapping[str, int],
    ) -> None:
        self._instances = instances
        self._going = going
        self._ended = ended
        self._events = events
        self._clients = clients

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("provision_build", "What is running.", {"version": version()})
        states = Counter(view.word for view in self._going)
        runs = GaugeMetricFamily("provision_runs", "Runs that are going, by state.", labels=["state"])
        for state in STATES:
            runs.add_metric([state], states[state])
        yield runs
        yield _counter("provision_runs_ended", "Runs that have ended.", "verdict", self._ended, ENDED)
        yield _counter("provision_events", "Events that were told.", "event", self._events)
        watched = GaugeMetricFamily(
            "provision_instances", "Instances that are watched after their runs, by state.", labels=["state"]
        )
        for state in INSTANCE_STATES:
            watched.add_metric([state], self._instances.get(state, 0))
        yield watched
        lost = sum(1 for view in self._going if view.contact not in (None, "connected"))
        yield GaugeMetricFamily(
            "provision_runs_out_of_contact", "Runs whose instance cannot be reached now.", lost
        )
        speed = sum(Totals.of(view.downloads()).bytes_per_s for view in self._going)
        yield GaugeMetricFamily(
            "provision_download_bytes_per_second", "What all instances download now.", speed
        )
        yield GaugeMetricFamily(
            "provision_stream_clients", "Clients that follow a stream now.", self._clients
        )


class _Loop(Collector):
    def __init__(self, loop: LoopWatch) -> None:
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        names = [*map(str, BOUNDS_S), "+Inf"]
        buckets = list(zip(names, accumulate(self._loop.counts), strict=True))
        late = HistogramMetricFamily(
            "provision_event_loop_late_seconds", "How late the event loop was, looked at ten times a second."
        )
        late.add_metric([], buckets, self._loop.late_s)
        yield late
        yield GaugeMetricFamily(
            "provision_event_loop_late_last_minute_seconds",
            "The latest that the event loop was within the last minute.",
            self._loop.lately_s,
        )


def _counter(
    name: str, text: str, label: str, counts: Mapping[str, int], always: Iterable[str] = ()
) -> CounterMetricFamily:
    """A counter by *label*; the values that are *always* shown begin at zero."""
    family = CounterMetricFamily(name, text, labels=[label])
    for value in sorted({*counts, *always}):
        family.add_metric([value], counts.get(value, 0))
    return family
