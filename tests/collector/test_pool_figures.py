"""What the runs of a pool took, as `/metrics` tells it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from provision_collector.pool.server.figures import MOST_SERIES, Figures

FACTS = {"gpus": [{"name": "NVIDIA GeForce RTX 4090", "memory_bytes": 24564 << 20}]}


def told(figures: Figures) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(figures)
    lines = generate_latest(registry).decode().splitlines()
    return {
        name: float(value) for line in lines if line[0] != "#" for name, _, value in [line.rpartition(" ")]
    }


def test_times_are_told_by_profile_and_card_and_failed_runs_by_what_they_cost() -> None:
    figures = Figures()
    for usable_s, duration_s in ((25.0, 50.0), (70.0, 400.0)):
        outcome = {"verdict": "complete", "usable_after_s": usable_s, "duration_s": duration_s}
        figures.count(outcome, FACTS, profile="comfyui", billed_s=duration_s + 5)
    for billed_s in (30.0, 12.5):
        figures.count({"verdict": "failed", "usable_after_s": None}, {}, profile="comfyui", billed_s=billed_s)

    found = told(figures)

    labels = 'card="NVIDIA GeForce RTX 4090"'
    assert found[f'provision_run_usable_seconds_bucket{{{labels},le="30.0",profile="comfyui"}}'] == 1
    assert found[f'provision_run_usable_seconds_bucket{{{labels},le="+Inf",profile="comfyui"}}'] == 2
    assert found[f'provision_run_usable_seconds_sum{{{labels},profile="comfyui"}}'] == 95.0
    assert found[f'provision_run_complete_seconds_count{{{labels},profile="comfyui"}}'] == 2
    billed = 'provision_failed_runs_billed_seconds_total{card="unknown",profile="comfyui",verdict="failed"}'
    assert found[billed] == 42.5


def test_names_of_clients_cannot_make_series_without_end() -> None:
    figures = Figures()
    for number in range(MOST_SERIES + 50):
        figures.count({"verdict": "failed"}, {}, profile=f"p{number}", billed_s=1.0)

    found = told(figures)

    assert len(found) <= 3 * (MOST_SERIES + 1), "three counters, none of which tells of more"
    others = [value for name, value in found.items() if 'profile="other"' in name and "_ended_total" in name]
    assert others == [50]


def test_runs_are_counted_by_verdict_and_those_that_require_refused_apart() -> None:
    figures = Figures()
    unfit = {"verdict": "failed", "errors": [{"class": "unfit", "item": "require.line"}]}
    broken = {"verdict": "failed", "errors": [{"class": "http"}, {"class": "missing"}]}
    for outcome in (
        unfit,
        unfit,
        broken,
        {"verdict": "contact-lost", "errors": None},
        {"verdict": "complete"},
    ):
        figures.count(outcome, FACTS, profile="vllm", billed_s=5.0)

    found = told(figures)

    labels = 'card="NVIDIA GeForce RTX 4090",profile="vllm"'
    assert found[f"provision_instances_refused_total{{{labels}}}"] == 2
    ended = "provision_profile_runs_ended_total"
    assert found[f'{ended}{{{labels},verdict="failed"}}'] == 3
    assert found[f'{ended}{{{labels},verdict="contact-lost"}}'] == 1
    assert found[f'{ended}{{{labels},verdict="complete"}}'] == 1
