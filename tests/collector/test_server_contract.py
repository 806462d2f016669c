"""What the server says is what the registries and its dataclasses say; its runs are folded once and block nobody."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from provision_agent.contract.events import EVENTS, parse_event
from provision_agent.contract.status import RunState
from provision_agent.contract.steps import STEPS
from provision_agent.contract.verdicts import NEXT, VERDICTS
from provision_collector.errors import UsageError
from provision_collector.instance import Instance
from provision_collector.pool.fleet.fleet_state import FleetState, read_members
from provision_collector.pool.fleet.targets import Target
from provision_collector.pool.server.answers import InvalidBodyError, read_body
from provision_collector.pool.server.feed import Feed
from provision_collector.pool.server.kept import snapshot_of, taken_up
from provision_collector.pool.server.orders import RunRequest, planned
from provision_collector.pool.server.page_words import page_words
from provision_collector.pool.server.run_log import RunLog
from provision_collector.pool.server.schemas import Status
from provision_collector.pool.server.shipping import jobs_of
from provision_collector.pool.server.view import View
from provision_collector.pool.store import writer
from provision_collector.pool.store.rows import Row
from provision_collector.pool.store.store import Store
from provision_collector.pool.store.streams import put_snapshot
from provision_collector.pool.store.writer import EventRow, insert_events
from provision_collector.run.registry import RunFiles
from provision_collector.run.spec import ReadSoFar

BODY = {
    "host": "root@203.0.113.7:14842",
    "profile": "comfyui",
    "timeout": 900,
    "labels": {"a": "b"},
    "skip": ["apt"],
    "secrets": {"A": "x"},
    "workflow": {"a": [1, 2.5, None]},
}


def event(seq: int, name: str = "download_progress", **facts: object) -> dict[str, Any]:
    head = {"format": 2, "ts": "2026-01-01T00:00:00.000Z", "run": "r", "seq": seq, "event": name}
    return {**head, "item": "a", "bytes": seq, **facts}


def test_an_order_is_known_again_by_a_server_of_another_release() -> None:
    assert (
        read_body(RunRequest, BODY).hash == "721305563db83e2ab5bea02617d786c94d7bb273659230ecb4ceea4d96a5e06b"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "Input should be a valid dictionary or instance of RunRequest"),
        ({}, "`host`: Field required"),
        ({**BODY, "workspac": "/x"}, "`workspac`: Extra inputs are not permitted"),
        ({**BODY, "port": "22"}, "`port`: Input should be a valid integer"),
        ({**BODY, "replace": 1}, "`replace`: Input should be a valid boolean"),
        ({**BODY, "profile": None}, "give `profile` or `profile_yaml`, one of them"),
    ],
)
def test_a_wrong_body_is_refused_in_the_words_that_clients_know(body: object, said: str) -> None:
    with pytest.raises(InvalidBodyError) as refused:
        read_body(RunRequest, body)
    assert refused.value.problems == [said]


def test_an_order_names_only_steps_that_there_are(tmp_path: Path) -> None:
    wanted = read_body(RunRequest, {**BODY, "secrets": None, "workflow": None, "skip": ["download"]})

    with pytest.raises(UsageError, match="unknown step `download`; did you mean `downloads`") as refused:
        planned(wanted, profiles=None, scratch=tmp_path)
    assert all(step in (refused.value.hint or "") for step in STEPS)


def test_the_status_of_a_run_has_every_field_of_its_state() -> None:
    assert set(View("r").to_json()) <= {field.name for field in fields(Status)}
    assert set(RunState("r").to_json()) <= {field.name for field in fields(Status)}


def test_the_page_has_a_word_and_a_tone_for_all_that_the_registries_know() -> None:
    lines = page_words().splitlines()
    tables = {line.split(" ")[2]: json.loads(line.split(" = ")[1].rstrip(";")) for line in lines}
    assert set(tables["NEXT"]) == set(NEXT) - {"none"}
    assert set(tables["TONES"]) >= {*VERDICTS, *tables["GOING"]}
    for name, kind in EVENTS.items():
        assert not kind.group or tables["EVENTS"][name] == [kind.group, kind.state]
        assert not kind.group or kind.state is None or kind.state in tables["TONES"]


def test_a_watched_run_is_shown_from_the_state_that_its_watcher_folds() -> None:
    view, state = View("r"), RunState("r")
    view.tell(event(1))
    view.watch(state)
    view.tell(event(2))
    assert view.run_state is not state, "it has not come as far as the stream"
    for seq in range(1, 5):
        state.fold(parse_event(event(seq)))
    view.tell(event(3))
    view.tell(event(4, "run_usable", after_s=2.5))
    assert view.run_state is state
    assert (view.state, view.agent_seq, view.last_event_id) == ("usable", 4, 4)
    assert view.summary(0.0).bytes == 4


async def test_a_slow_disk_keeps_one_run_waiting_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_ready, pieces = threading.Event(), []

    def slowly(connection: Any, rows: Any) -> None:
        assert is_ready.wait(20)
        pieces.append(len(rows))
        insert_events(connection, rows)

    store = await Store.open(tmp_path)
    row = Row(
        run="r",
        request_hash="",
        instance=Instance("h"),
        plan={},
        profile="p",
        labels={"pool": "a"},
        secret_names=[],
    )
    assert await store.add(row)
    monkeypatch.setattr(writer, "insert_events", slowly)
    feed = Feed(row.day, row.rid)
    log = RunLog(row, store, view=View("r"), feed=feed, told=Counter())
    for seq in range(1, 101):
        await log.tell(event(seq))
    saying = asyncio.create_task(log.say("warning", message="m"))
    done, _ = await asyncio.wait({saying}, timeout=0.1)
    assert not done
    assert log.view.last_event_id == feed.last_id == 0, "nothing counts before it is written"
    is_ready.set()
    await saying
    await log.end()
    assert (log.view.last_event_id, log.view.collector_seq, log.view.warnings) == (101, 1, ["m"])
    assert sum(pieces) == 101
    assert len(pieces) < 5, "what comes together is written in one piece"
    told = await store.streams.all_of(row)
    assert [number for number, _ in told] == list(range(1, 102))
    assert all(b'"labels":{"pool":"a"}' in body for _, body in told)
    taken = await taken_up(store, row)
    assert taken.view.to_json() == log.view.to_json(), "the fold that was kept is what the events say"
    await store.close()


@pytest.mark.parametrize(
    ("since", "passed_seq"),
    [
        ([event(seq) for seq in range(3, 9)], 8),
        ([event(3), event(4, "secrets_needed", names=["A"]), event(5)], 0),
        ([event(3), {"event": "nothing that can be read"}], 0),
    ],
)
async def test_a_watcher_need_not_read_again_what_the_stream_says_but_for_what_it_has_to_heed(
    tmp_path: Path, since: list[dict[str, Any]], passed_seq: int
) -> None:
    store = await Store.open(tmp_path)
    row = Row(
        run="r", request_hash="", instance=Instance("h"), plan={}, profile="p", labels={}, secret_names=[]
    )
    assert await store.add(row)
    view = View("r")
    for told in (event(1, "run_started"), event(2)):
        view.tell(told)
    kept = snapshot_of(view, ReadSoFar(200, view.run_state.to_json()))
    rows = [
        EventRow(row.day, row.rid, number, json.dumps(told).encode()) for number, told in enumerate(since, 3)
    ]
    await store.streams.append(rows, lambda line: put_snapshot(line, row.rid, kept))

    taken = await taken_up(store, row)

    so_far = taken.so_far
    assert so_far is not None
    assert (so_far.read_to, so_far.passed_seq) == (200, passed_seq)
    assert so_far.state["seq"] == (passed_seq or 2)
    assert taken.view.last_event_id == 2 + len(since)
    await store.close()


async def test_changes_of_a_fleet_that_come_together_are_written_at_once_and_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    targets = [Target(Instance(f"h{number}")) for number in range(200)]
    state = FleetState("pool", "hash", targets)
    async with state.locked():
        begun = state.writes

        async def change(key: str) -> None:
            state.members[key].state = "going"
            await state.save()

        await asyncio.gather(*(change(key) for key in state.members))
        assert state.writes - begun < 10
        assert {member.state for member in read_members("pool")} == {"going"}


def test_the_logs_of_jobs_that_servers_share_are_the_files_of_their_mirrors(tmp_path: Path) -> None:
    files = RunFiles(str(tmp_path / "run"))
    names = ("train", "train 2/b")
    plan = {"jobs": [{"name": name, "run": "x"} for name in names]}
    assert [files.log(file) for file in jobs_of(plan)] == [files.job(name) for name in names]
    assert jobs_of({}) == ()
