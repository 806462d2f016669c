"""The state of a run as JSON: read again it is the same, and what is none is refused."""

from __future__ import annotations

from typing import Any

import pytest
from provision_agent.contract.event_bodies import MAX_KEY_CHARS
from provision_agent.contract.events import parse_event
from provision_agent.contract.parsing import ParseError
from provision_agent.contract.plan import Download, Plan, Repo
from provision_agent.contract.status import MAX_UNPLANNED, RunState


def folded() -> RunState:
    state = RunState("r")
    told: Any = [
        ("run_started", {"name": "x", "plan_hash": "0f", "deadline_s": 60.0, "labels": {"a": "b"}, "workspace": "/w"}),
        ("facts_found", {"facts": {"gpus": []}}),
        ("step_started", {"step": "downloads"}),
        ("download_progress", {"item": "d/ from u", "key": "d/#1", "bytes": 3, "bytes_per_s": 1.5, "level": "critical"}),
        ("download_failed", {"item": "d/f", "key": "d/#1", "class": "not_found", "message": "no", "retriable": False}),
        ("check_passed", {"item": "c", "found": "9 bytes"}),
        ("service_ready", {"item": "s", "url": "http://127.0.0.1:1/"}),
        ("service_progress", {"item": "s", "message": "it is asked for something"}),
        ("step_finished", {"step": "downloads", "ok": 0, "failed": 1, "skipped": 0, "duration_s": 2.0}),
        ("warning", {"message": "beware"}),
        ("run_usable", {"after_s": 1.0}),
        ("run_finished", {"verdict": "failed", "duration_s": 3.0, "bytes_downloaded": 3}),
    ]  # fmt: skip
    for number, (name, fields) in enumerate(told, 1):
        head = {"format": 2, "ts": "2026-01-31T10:00:00.000Z", "run": "r", "seq": number, "event": name}
        state.fold(parse_event(dict(head, **fields)))
    return state


def test_a_state_survives_its_json() -> None:
    state = folded()
    again = RunState.from_json(state.to_json())

    assert again.to_json() == state.to_json()
    assert list(again.errors) == ["d/#1"]
    assert again.totals() == state.totals()


def test_words_about_an_item_that_is_there_do_not_begin_it_again() -> None:
    assert folded().items["services"]["s"].state == "ready"


def test_the_state_that_an_agent_of_the_first_format_wrote_is_read() -> None:
    old: dict[str, Any] = {
        "format": 1, "run": "r", "state": "running", "seq": 9, "started": None, "updated": "2026-01-31T10:00:00.000Z",
        "steps": {"apt": {"state": "running", "started": "2026-01-31T10:00:00.000Z"}}, "labels": None,
        "downloads": {"a": {"state": "retrying", "level": "required", "attempt": 2, "later": [1]}},
        "repos": {}, "packages": {}, "files": {}, "commands": {}, "checks": {}, "services": {},
        "errors": [{"class": "not_found", "item": "a", "level": "required", "message": "m", "hint": "h",
                    "retriable": False, "key": "a"}],
        "warnings": [], "usable_after_s": None, "verdict": None, "workspace": "/w", "is_alive": True, "files_of": {},
    }  # fmt: skip
    state = RunState.from_json(old)

    assert (state.state, state.seq, state.verdict) == ("running", 9, None)
    assert state.items["downloads"]["a"].count("attempt") == 2
    assert state.steps["apt"].state == "running"
    assert state.errors["a"].class_ == "not_found"


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "../r"},
        {"verdict": "agent-lost"},
        {"seq": -1},
        {"seq": "9"},
        {"deadline_s": float("nan")},
        {"downloads": []},
        {"downloads": {"a": 5}},
        {"downloads": {"a": {"state": "done", "bytes": -1}}},
        {"downloads": {"a": {"state": "done", "bytes": True}}},
        {"downloads": {"a" * (MAX_KEY_CHARS + 1): {"state": "done"}}},
        {"services": {"a": {"url": "nonsense"}}},
        {"steps": {"apt": {"ok": 1.5}}},
        {"errors": [{"class": "x"}]},
        {"warnings": [5]},
        {"facts": []},
    ],
    ids=str,
)
def test_what_is_no_state_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParseError):
        RunState.from_json(dict(folded().to_json(), **wrong))


def test_a_state_of_an_item_that_is_not_known_counts_as_going_on() -> None:
    told = dict(folded().to_json(), downloads={"a": {"state": "hovering"}})

    assert RunState.from_json(told).items["downloads"]["a"].state == "running"


def test_items_that_the_plan_does_not_know_are_counted_and_those_that_it_brings_are_not() -> None:
    plan = Plan(
        name="x",
        apt=("git",),
        repos=(Repo("https://a.org/r", "r", install="req.txt"),),
        downloads=(
            Download("https://a.org/f", "models/${run_id}/f"),
            Download("hf://owner/repo", "whole/"),
        ),
    )
    end = plan.downloads[1].key.rpartition("#")[2]
    for key in ("r", "r/req.txt", "r/__init__.py", "apt:git", "models/7/f", f"whole/a/b#{end}"):
        assert plan.knows(key), key
    assert not plan.knows("other") and not plan.knows("whole/a/b#0")

    many = {f"whole/{number}#{end}": {"state": "done"} for number in range(3 * MAX_UNPLANNED)}
    assert RunState.from_json(dict(folded().to_json(), downloads=many), planned=plan.knows)
    foreign = {f"other/{number}": {"state": "done"} for number in range(MAX_UNPLANNED + 1)}
    with pytest.raises(ParseError, match="that its plan does not have"):
        RunState.from_json(dict(folded().to_json(), downloads=foreign), planned=plan.knows)


def test_a_state_that_knows_its_plan_takes_few_items_besides_it() -> None:
    state = RunState("r", planned=Plan(name="x").knows)
    head = {"format": 2, "ts": "2026-01-31T10:00:00.000Z", "run": "r", "event": "check_passed"}
    for number in range(MAX_UNPLANNED):
        state.fold(parse_event(dict(head, seq=number + 1, item=f"c{number}")))
    with pytest.raises(ParseError):
        state.fold(parse_event(dict(head, seq=MAX_UNPLANNED + 1, item="one more")))


def test_a_key_with_half_a_character_is_refused():
    told = RunState("r").to_json()
    told["repos"] = {"\ud800": {"state": "running", "item": "x"}}
    with pytest.raises(ParseError, match="half a character"):
        RunState.from_json(told)
