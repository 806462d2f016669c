"""What an events file may hold: every type and bound, and everything that a stranger could write instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from provision_agent.contract import events, verdicts
from provision_agent.contract.event_bodies import AGENT_VERDICTS
from provision_agent.contract.events import COLLECTOR_NAMES as OUR_NAMES
from provision_agent.contract.events import MAX_EVENT_BYTES
from provision_agent.contract.events import parse_event as check_event
from provision_agent.contract.events import read_event as parse_event
from provision_agent.contract.parsing import ParseError as Misfit
from provision_agent.contract.status import RunState

HEAD = {"format": 1, "ts": "2026-01-31T23:59:59.123Z", "run": "r", "seq": 1}
WORDS: list[Any] = [
    True, -1, 1.5, "x", "1" * 300, [], [1], {}, {"a": []}, 10**18, 1e300, [[[["x"]]]], {"a": {"b": {"c": None}}},
]  # fmt: skip
"""Values of every type; each field fits some of them and no more."""


def event(what: str, **fields: Any) -> dict[str, Any]:
    return {**HEAD, "event": what, **fields}


def line(what: str, **fields: Any) -> bytes:
    return json.dumps(event(what, **fields)).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"event": "download_progress", "item": "a", "bytes": "lots"},
        {"event": "download_progress", "item": "a", "bytes": True},
        {"event": "download_progress", "item": "a", "bytes": -1},
        {"event": "download_progress", "item": "a", "bytes": 1 << 60},
        {"event": "download_progress", "item": "a", "total_bytes": {}},
        {"event": "download_progress", "item": "a", "bytes_per_s": "x"},
        {"event": "download_progress", "item": ["a"]},
        {"event": "download_progress", "item": "a" * 9000},
        {"event": "download_progress"},
        {"event": "download_retried", "item": "a", "attempt": "1"},
        {"event": "download_failed", "item": "a", "class": ["not_found"]},
        {"event": "download_failed", "item": "a", "retriable": "no"},
        {"event": "check_failed", "item": "a", "message": {}},
        {"event": "service_ready", "item": "a", "url": "http://h:99999/"},
        {"event": "service_ready", "item": "a", "url": "http://[h/"},
        {"event": "service_started", "item": "a", "pid": "1"},
        {"event": "step_finished", "step": "repos", "ok": []},
        {"event": "step_finished", "step": {}},
        {"event": "step_exploded", "step": 5},
        {"event": "run_started", "labels": {"pool": 1}},
        {"event": "run_started", "labels": "pool"},
        {"event": "run_started", "labels": {str(n): "" for n in range(300)}},
        {"event": "run_started", "deadline_s": "1 h"},
        {"event": "run_started", "deadline_s": 1e300},
        {"event": "run_started", "name": 1},
        {"event": "facts_found", "facts": [1]},
        {"event": "secrets_needed", "names": 5},
        {"event": "secrets_needed", "names": [5]},
        {"event": "secrets_needed", "names": "HF_TOKEN"},
        {"event": "secrets_needed"},
        {"event": "warning", "message": None},
        {"event": "run_usable"},
        {"event": "run_usable", "after_s": None},
        {"event": "run_finished"},
        {"event": "run_finished", "verdict": ["complete"]},
        {"event": "run_finished", "verdict": "instance-gone"},
        {"event": "run_finished", "verdict": "complete", "sizes": []},
        {"event": "run_finished", "verdict": "complete", "sizes": {"core": "9"}},
        {"event": "warning", "message": "x", "seq": -1},
        {"event": "warning", "message": "x", "seq": 0},
        {"event": "warning", "message": "x", "seq": "1"},
        {"event": "warning", "message": "x", "seq": True},
        {"event": "warning", "message": "x", "ts": "yesterday"},
        {"event": "warning", "message": "x", "ts": "2026-02-30T00:00:00.000Z"},
        {"event": "warning", "message": "x", "ts": "2026-01-31T25:00:00.000Z"},
        {"event": "warning", "message": "x", "ts": "0001-01-01T00:00:00.000+14:00"},
        {"event": "warning", "message": "x", "ts": 5},
        {"event": "warning", "message": "x", "ts": None},
        {"event": "warning", "message": "x", "run": "../x"},
        {"event": "warning", "message": "x", "format": True},
        {"event": ["warning"]},
        {"event": "two\nlines"},
        {"event": ""},
        {"event": "of_tomorrow", "more": "x" * 70_000},
        {"event": "of_tomorrow", "more": {"x" * 70_000: 1}},
        {"event": "of_tomorrow", "more": [[[[[[[[[[[[[1]]]]]]]]]]]]]},
        {"event": "of_tomorrow", "more": "\ud800"},
        {"event": "of_tomorrow", "\udfff": 1},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_a_field_of_another_type_or_out_of_bounds_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Misfit) as refused:
        check_event({**HEAD, **fields})
    assert len(str(refused.value)) < 300, "nothing of a value is quoted"


@pytest.mark.parametrize("field", ["format", "ts", "run", "seq", "event"])
def test_a_head_with_a_field_missing_is_refused(field: str) -> None:
    whole = event("warning", message="x")
    del whole[field]
    with pytest.raises(Misfit, match=f"`{field}`"):
        check_event(whole)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": NaN}',
        b'{"a": [-Infinity]}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 4000 + b"}",
        b'{"a": -' + b"9" * 6000 + b"}",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
        b'{"a": "' + b"x" * MAX_EVENT_BYTES + b'"}',
        b"5",
        b"null",
        b'"event"',
        b"[]",
    ],
    ids=lambda raw: raw[:16].decode(),
)
def test_what_is_no_event_at_all_is_refused(raw: bytes) -> None:
    with pytest.raises(Misfit):
        parse_event(raw)


@pytest.mark.parametrize(
    "raw", [b'{"event": "warni', b"", b"\0\0\0\0", b'{"message": "\xff"}', b"\xe2\x82", b"not JSON"]
)
def test_a_line_that_a_killed_agent_tore_is_no_event_and_no_fault(raw: bytes) -> None:
    assert parse_event(raw) is None


def test_events_and_fields_of_a_newer_agent_pass_as_data() -> None:
    told = event("of_tomorrow", item={"any": ["thing", 1.5, None]}, bytes="lots", names=5)
    check_event(told)
    check_event(event("download_started", item="a", of_tomorrow=[{"deep": [1]}]))
    status = RunState("r")
    status.fold(check_event(told))
    assert status.items["downloads"] == {}


def test_every_event_of_the_protocol_fits_with_the_values_that_the_agent_writes() -> None:
    values: dict[str, Any] = {
        "facts": {"gpus": [{"name": "x"}]}, "names": ["A"], "urls": ["s3://a/b"], "verdict": "complete", "resumed": False,
        "substitute": False, "retriable": True, "sizes": {"core": 1, "errors": 0}, "url": "http://127.0.0.1:8188/x",
        "disks": [{"path": "/", "free_bytes": 1}], "level": "required",
    }  # fmt: skip
    whole = {
        "bytes", "total_bytes", "bytes_to_fetch", "sent_bytes", "attempt", "pid", "ok", "failed", "skipped", "files",
        "count", "packages", "package_files", "repositories", "services", "exit_status",
    }  # fmt: skip
    for name, fields in events.AGENT_EVENTS.items():
        told = {
            field: values.get(field, 3 if field in whole else 1.5 if field.endswith("_s") else "x")
            for field in fields
        }
        check_event(event(name, **told))
        for empty in ("total_bytes", "url", "sha256", "commit"):
            if empty in told:
                check_event(event(name, **{**told, empty: None}))


def test_whatever_fits_can_be_folded_and_added_up() -> None:
    names = [*events.AGENT_EVENTS, "step_exploded", "repo_ready", "file_progress"]
    for name in names:
        needed = {"item": "a", "step": "s", "message": "m", "names": [], "after_s": 1, "verdict": "complete"}
        for field in ("item", "step", "message", "names", "after_s", "verdict", "bytes", "total_bytes", "bytes_per_s",
                      "class", "level", "labels", "deadline_s", "facts", "sizes", "wait_s", "url", "found", "ok"):  # fmt: skip
            for value in WORDS:
                told = event(name, **{**needed, field: value})
                try:
                    fits = check_event(told)
                except Misfit:
                    continue
                status = RunState("r")
                status.fold(fits)
                status.totals()
                status.to_json()


def test_the_names_of_this_side_are_known_and_no_verdict_of_it_is_the_instances() -> None:
    assert {"outcome", "connected", "connection_lost", "gap", "run_accepted", "agent_restarted"} <= OUR_NAMES
    assert OUR_NAMES.isdisjoint(events.AGENT_EVENTS)
    assert set(AGENT_VERDICTS) <= set(verdicts.VERDICTS)


def test_a_line_is_read_as_it_was_written() -> None:
    assert parse_event(line("warning", message="ü\u2028")) == event("warning", message="ü\u2028")
