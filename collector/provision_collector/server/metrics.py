"""Numbers for Prometheus, read from the pool when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .view import STATES, View

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(
    *, going: Iterable[View], ended: Mapping[str, int], events: Mapping[str, int], clients: int
) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Now(list(going), ended, events, clients))
    return generate_latest(registry)


class _Now(Collector):
    def __init__(
        self, going: list[View], ended: Mapping[str, int], events: Mapping[str, int], clients: int
    ) -> None:
        self._going = going
        self._ended = ended
        self._events = events
        self._clients = clients

    def collect(self) -> Iterator[Metric]:
        states = Counter(str(view["state"]) for view in self._going)
        runs = GaugeMetricFamily("provision_runs", "Runs that are going, by state.", labels=["state"])
        for state in STATES:
            runs.add_metric([state], states[state])
        yield runs
        ended = CounterMetricFamily(
            "provision_runs_ended", "Runs that have ended, by verdict.", labels=["verdict"]
        )
        for verdict, count in sorted(self._ended.items()):
            ended.add_metric([verdict], count)
        yield ended
        told = CounterMetricFamily("provision_events", "Events that this process has told.", labels=["event"])
        for event, count in sorted(self._events.items()):
            told.add_metric([event], count)
        yield told
        lost = sum(1 for view in self._going if view["contact"] not in (None, "connected"))
        yield GaugeMetricFamily(
            "provision_runs_out_of_contact", "Runs whose instance cannot be reached now.", lost
        )
        speed = sum(
            float(item.get("bytes_per_s") or 0)
            for view in self._going
            for item in view["downloads"].values()
            if item["state"] == "running"
        )
        yield GaugeMetricFamily(
            "provision_download_bytes_per_second", "What all instances download now.", speed
        )
        yield GaugeMetricFamily(
            "provision_stream_clients", "Clients that follow a stream now.", self._clients
        )
