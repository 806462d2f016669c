"""The lines that people grep for."""

from __future__ import annotations

from typing import Any

import pytest
from provision_agent.run.log_lines import Lines, lines_of, validation_lines

FAILURE = {"message": "it broke", "hint": "h", "retriable": False}

PROMISED = {
    "complete": (
        {"event": "run_finished", "verdict": "complete", "duration_s": 61.0},
        Lines(["✅ PROVISIONING COMPLETE in 61s"], []),
    ),
    "failed": (
        {"event": "run_finished", "verdict": "failed", "duration_s": 61.0, "errors_log": "/w/provision_errors.log"},
        Lines(["FATAL: provisioning failed after 61s; see /w/provision_errors.log"], []),
    ),
    "the deadline": (
        {"event": "run_finished", "verdict": "timeout", "duration_s": 61.0},
        Lines(["FATAL: the run's deadline passed after 61s"], []),
    ),
    "the batch": (
        {"event": "step_finished", "step": "downloads", "ok": 13, "failed": 1, "skipped": 0, "duration_s": 1.0},
        Lines(["📊 Download batch complete: 13/14 succeeded, 1 failed"], []),
    ),
    "none found": (
        {"event": "check_failed", "item": "Checkpoints", "found": 0, "min_count": 2, "class": "missing", **FAILURE},
        Lines(
            ["❌ Checkpoints: NONE FOUND (at least 2 required)"],
            ["FAILED: Checkpoints (missing: it broke)"],
        ),
    ),
    "a file's time is up": (
        {"event": "download_failed", "item": "a.bin", "url": "https://x.org/a", "class": "timed_out", "limit_s": 900.0, **FAILURE},
        Lines(["⏱️ Timeout (900s): a.bin"], ["FAILED: a.bin from https://x.org/a (timed_out: it broke)"]),
    ),
    "a file fails": (
        {"event": "download_failed", "item": "a.bin", "url": "https://x.org/a", "class": "not_found", **FAILURE},
        Lines(["❌ download a.bin: it broke [not_found]"], ["FAILED: a.bin from https://x.org/a (not_found: it broke)"]),
    ),
    "unknown sizes": (
        {"event": "preflight_passed", "bytes_to_fetch": 0, "unknown_sizes": 2, "disks": []},
        Lines(["🔎 Preflight passed: 2 files of unknown size to fetch"], []),
    ),
    "progress": ({"event": "download_progress", "item": "a", "bytes": 1}, Lines([], [])),
}  # fmt: skip


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_line_is_exactly_so(name: str) -> None:
    event, lines = PROMISED[name]
    whole: dict[str, Any] = {"run": "r", **event}

    assert lines_of(whole) == lines


def test_the_word_on_the_critical_checks() -> None:
    assert validation_lines({}) == Lines(["✅ All critical components verified"], [])
    assert validation_lines({"Checkpoints": 0, "Torch": "not importable: torch"}) == Lines(
        ["❌ VALIDATION FAILED: 2 critical component(s) missing"],
        ["VALIDATION FAILED: 2 critical component(s) missing (Checkpoints: 0, Torch: not importable: torch)"],
    )


def test_every_event_of_the_protocol_has_lines_or_none_but_never_breaks() -> None:
    from provision_agent.contract.events import AGENT_EVENTS

    values: dict[str, Any] = {
        "facts": {}, "names": ["A"], "verdict": "complete", "step": "repos", "ok": 1, "failed": 0, "skipped": 0,
        "resumed": False, "name": "n",
    }  # fmt: skip
    numbers = {
        "duration_s",
        "deadline_s",
        "bytes_to_fetch",
        "after_s",
        "needed_s",
        "remaining_s",
        "wait_s",
        "for_s",
    }
    for name, fields in AGENT_EVENTS.items():
        event = {
            field: values.get(field, 1.0 if field in numbers or "bytes" in field else "x") for field in fields
        }
        core, errors = lines_of({"run": "r", **event, "event": name})
        for line in core + errors:
            assert line
            assert "\n" not in line
