"""Runs as a table at any width, one run on a page, and failures of one cause told once."""

from __future__ import annotations

import pytest
from provision_agent.contract.events import parse_event
from provision_agent.contract.failures import FAILURES
from provision_agent.contract.status import RunState
from provision_collector.console.causes import causes
from provision_collector.console.run_page import SHOWN, Place, run_page
from provision_collector.console.runs import Row, runs_table
from provision_collector.console.summary import fitted, told_errors
from rich.cells import cell_len

TS = "2026-01-01T00:00:{:02d}.000Z"
ROWS = [
    Row(
        "20261126T035234-25b684",
        "complete",
        "root@203.0.113.7:2222",
        "flux-with-ten-nodes",
        "11-26 03:52",
        "3/3",
        "9.4 GB",
    ),
    Row("a", "failed", "[2001:db8::7]:22", "画像", "11-26 00:40", "0/2", "", "2"),
]


@pytest.mark.parametrize("width", [20, 60, 80, 100, 120, None])
def test_a_table_of_runs_fits_and_cuts_nothing(width: int | None) -> None:
    lines = runs_table(ROWS, width)

    words = "\n".join(lines).split()
    assert [cell for row in ROWS for cell in " ".join(row).split() if cell not in words] == []
    longest = max(cell_len(word) for word in words) + 2  # a name that is wider than the terminal stays whole
    assert width is None or all(cell_len(line) <= max(width, longest) for line in lines)


def test_in_a_pipe_a_run_is_one_line() -> None:
    assert len(runs_table(ROWS, None)) == 1 + len(ROWS)
    assert len(runs_table(ROWS, 60)) > 1 + len(ROWS)


def state_of(*events: dict[str, object]) -> RunState:
    state = RunState("run-1")
    for seq, event in enumerate(events, start=1):
        state.fold(parse_event({"format": 2, "run": "run-1", "seq": seq, "ts": TS.format(seq), **event}))
    return state


def page(state: RunState) -> str:
    place = Place("root@203.0.113.7:2222", "flux", "/workspace", "11-26 03:52", "logs/run-1.log")
    return "\n".join(line for words in run_page(state, place) for line in fitted(words, 200))


DOWNLOADS = [
    {
        "event": "download_progress",
        "item": "m/a.safetensors",
        "bytes": 30,
        "total_bytes": 90,
        "bytes_per_s": 2.0,
    },
    {"event": "download_finished", "item": "m/b.safetensors", "bytes": 60, "duration_s": 1.0},
    {
        "event": "download_failed",
        "item": "m/c.safetensors",
        "level": "required",
        "class": "not_found",
        "message": "example.com: HTTP 404 Not Found",
        "hint": "look",
        "retriable": False,
    },
]


def test_a_page_tells_what_goes_on_what_is_there_what_failed_and_what_to_type() -> None:
    text = page(
        state_of(
            {"event": "step_started", "step": "downloads"},
            *DOWNLOADS,
            {"event": "service_ready", "item": "comfyui", "url": "http://127.0.0.1:8188", "after_s": 3.0},
        )
    )

    assert "1 of 3, 1 failed, 90/150 B, 2 B/s, all there in about 30 s" in text
    assert text.index("▸ m/a.safetensors  30/90 B, 2 B/s, there in about 30 s") < text.index(
        "✗ m/c.safetensors"
    )
    assert "✓ m/b.safetensors  60 B" in text
    assert "✓ comfyui  http://127.0.0.1:8188" in text
    assert "example.com: HTTP 404 Not Found\n   next: " in text
    assert text.endswith("next: `provision attach run-1` follows it, `provision stop run-1` ends it")


def test_a_page_of_many_files_stays_short() -> None:
    files: list[dict[str, object]] = [
        {"event": "download_finished", "item": f"m/{number}", "bytes": 1, "duration_s": 1.0}
        for number in range(SHOWN + 7)
    ]

    assert "… and 7 more" in page(state_of(*files))


def error(
    item: str, message: str, class_: str = "unauthorized", level: str = "required"
) -> dict[str, object]:
    return {
        "class": class_,
        "item": item,
        "level": level,
        "message": message,
        "hint": f"set HF_TOKEN for {item}",
    }


def told(errors: list[dict[str, object]]) -> str:
    return "\n".join(line for words in told_errors(list(errors)) for line in fitted(words, 200))


def test_failures_of_one_cause_are_one_entry_with_its_items() -> None:
    names = [f"models/{letter}.safetensors" for letter in "abcde"]
    errors = [error(name, f"https://hf.co/{name} says 401, for {name}") for name in names]
    errors.append(error("models/f.safetensors", "https://elsewhere.example/f says 401"))
    errors[2]["level"] = "critical"

    text = told(errors)

    assert (
        "5 items for one reason (critical, unauthorized): models/a.safetensors, models/b.safetensors" in text
    )
    assert text.count("next:") == 2
    assert "elsewhere.example" in text


def test_many_names_are_counted() -> None:
    [cause] = causes(error(f"m/{number}", "HTTP 401") for number in range(100))

    assert cause.names().endswith("m/7 and 92 more")


def test_the_reason_comes_before_what_follows_from_it() -> None:
    follows = next(name for name, known in FAILURES.items() if known.follows_others)
    errors = [
        error("a check", "it is not there", follows, "critical"),
        error("m/a", "HTTP 404", "not_found"),
        error("m/b", "the disk is full", "disk_full"),
    ]

    assert [cause.first["item"] for cause in causes(errors)] == ["m/b", "m/a", "a check"]


def test_the_page_of_an_ended_run_shows_nothing_as_going_and_a_space_after_every_label() -> None:
    started = {"event": "step_started", "step": "downloads"}
    finished = {"event": "step_finished", "step": "downloads", "ok": 1, "duration_s": 40.0}
    repo = {"event": "repo_finished", "item": "ComfyUI", "duration_s": 1.0}
    ended = {"event": "run_finished", "verdict": "complete", "duration_s": 52.0, "bytes_downloaded": 60}
    text = page(
        state_of(started, DOWNLOADS[1], repo, finished, {"event": "package_progress", "item": "venv"}, ended)
    )

    assert "▸" not in text
    assert "repositories  1 of 1" in text
    assert "downloads 1 ok in 40 s, 1.0 s of it work" in text
