"""What a server keeps, in SQLite and in PostgreSQL alike: told events stay, a full disk is waited for, old runs go."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from harness.postgres import Postgres
from provision_collector.errors import LocalMachineError, UsageError
from provision_collector.instance import Instance
from provision_collector.pool.fleet.fleet_state import FleetState
from provision_collector.pool.fleet.targets import Target
from provision_collector.pool.hooks import HookQueue, HookStore
from provision_collector.pool.instances import Instances
from provision_collector.pool.store import days, schema
from provision_collector.pool.store import writer as writer_module
from provision_collector.pool.store.database import Database
from provision_collector.pool.store.instances import WatchedRow
from provision_collector.pool.store.rows import DAY_S, Row
from provision_collector.pool.store.store import Store, Wanted
from provision_collector.pool.store.streams import MirrorPlace, Place, Snapshot, put_mirror, put_snapshot
from provision_collector.pool.store.writer import EventRow, FencedError

AMPLE = 1 << 20
Open = Callable[[], Any]


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where the tables are; None: a file."""
    if request.param == "sqlite":
        return None
    cluster: Postgres = request.getfixturevalue("postgres")
    return cluster.database()


@pytest.fixture
async def store(tmp_path: Path, address: str | None) -> AsyncIterator[Store]:
    store = await opened(tmp_path, address)
    yield store
    await store.close()


async def opened(folder: Path, address: str | None) -> Store:
    store = await Store.open(folder, address)
    await store.leases.join(b"key", takes_runs=True)
    return store


def row(run: str, **more: Any) -> Row:
    facts = {
        "request_hash": "",
        "instance": Instance("h"),
        "plan": {"name": "x"},
        "profile": "x",
        "labels": {},
    }
    return Row(run=run, **{**facts, "secret_names": ["A"], **more})


async def added(store: Store, run: str, **more: Any) -> Row:
    new = row(run, owner=store.leases.me, **more)
    assert await store.add(new)
    return new


def told(row: Row, *numbers: int) -> list[EventRow]:
    return [EventRow(row.day, row.rid, number, json.dumps({"n": number}).encode()) for number in numbers]


async def test_the_migrations_make_the_tables_that_the_program_works_with(store: Store) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        skipped = re.compile("alembic_version|(events|chunks)_(rest|day_[0-9]+)")
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: not (kind == "table" and skipped.fullmatch(name))},
        )
        return list(compare_metadata(context, schema.metadata))

    assert await store.database.ask(differences) == []


async def test_a_run_is_kept_once_and_comes_back_as_it_was(store: Store) -> None:
    first = await added(
        store, "one", labels={"zone": "a\0\u2028"}, instance=Instance("h", port=7), is_watched_after=True
    )
    assert not await store.add(row("one", request_hash="other"))
    assert await store.find("one") == first
    assert (await store.find("one", with_plan=False) or first).plan == {}
    await store.update(first, is_stopping=True, state="usable", joined="two")
    assert await store.find("one") == first
    assert await store.find("none") is None


async def test_an_event_is_kept_under_its_first_id_however_often_it_is_written(store: Store) -> None:
    one, two = await added(store, "one"), await added(store, "two")
    await asyncio.gather(
        store.streams.append(told(one, 1, 2)),
        store.streams.append(told(two, 1)),
        store.streams.append(told(one, 3)),
    )
    again = EventRow(one.day, one.rid, 3, b"another word")
    await store.streams.append([again, *told(one, 4)])

    assert await store.streams.after(Place(one.day, one.rid, 1)) == [
        (number, b'{"n": %d}' % number) for number in (2, 3, 4)
    ]
    assert [await store.streams.last_id(each) for each in (one, two)] == [4, 1]
    news = await store.streams.news([Place(one.day, one.rid, 3), Place(two.day, two.rid, 0)])
    assert [(found.rid, found.id) for found in news] == [(one.rid, 4), (two.rid, 1)]


async def test_a_fold_is_kept_with_the_events_that_came_after_it(store: Store) -> None:
    one = await added(store, "one")
    await store.streams.append(
        told(one, *range(1, 1201)),
        lambda line: put_snapshot(line, one.rid, Snapshot(600, "first", None)),
    )
    await store.writer.write(work=lambda line: put_snapshot(line, one.rid, Snapshot(700, "{}", "watched")))

    kept, since = await store.streams.snapshot(one)
    assert kept == Snapshot(700, "{}", "watched")
    assert [number for number, _ in since] == list(range(701, 1201))


async def test_a_log_is_read_in_pieces_and_its_end_is_known(store: Store) -> None:
    one = await added(store, "one")
    pieces = {0: b"a" * 10, 10: b"b" * 5, 15: b"c" * 20}
    at = MirrorPlace("core", 35, "{}")
    await store.writer.write(work=lambda line: put_mirror(line, one, at, pieces))
    events = MirrorPlace("events", 9000, "{}", b"tail")
    await store.writer.write(work=lambda line: put_mirror(line, one, events, {}))

    assert await store.streams.log_size(one, "core") == 35
    assert await store.streams.log_bytes(one, "core", 12, 100) == b"bbb"
    assert await store.streams.log_bytes(one, "core", 35, 100) == b""
    places = await store.streams.mirror_places(one, 8)
    assert {file: (place.length, place.tail) for file, place in places.items()} == {
        "core": (35, b"c" * 8),
        "events": (9000, b"tail"),
    }


async def test_runs_are_listed_in_pages_by_state_label_and_host(store: Store) -> None:
    for number in range(7):
        facts: dict[str, Any] = {
            "labels": {"pool": "a" if number % 2 else "b"},
            "created_unix": float(number // 2),
        }
        facts["instance"] = Instance("h1" if number < 4 else "::1", port=7, instance_id=f"i-{number}")
        if number in (1, 2):
            facts |= {"verdict": "failed", "state": "failed"}
        await added(store, f"run{number}", **facts)

    async def names(**wanted: Any) -> list[str]:
        return [found.run for found in await store.listed(Wanted(**wanted))]

    pages, before = [], None
    while page := await store.listed(Wanted(before=before, limit=3)):
        pages += [found.run for found in page]
        before = (page[-1].created_unix, page[-1].rid)
    assert pages == [f"run{number}" for number in range(6, -1, -1)]
    assert await names(state="failed") == ["run2", "run1"]
    assert await names(state="going", labels={"pool": "a"}) == ["run5", "run3"]
    assert await names(host="h1", state="accepted") == ["run3", "run0"]
    assert await names(host="[::1]:7") == ["run6", "run5", "run4"]
    assert await names(host="i-6") == ["run6"]
    assert await store.counts(Wanted(labels={"pool": "a"})) == {"failed": 1, "accepted": 2}


@pytest.fixture(params=["sqlite", "postgresql", "fleet"])
async def ledger(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[HookStore]:
    """Whatever keeps what hooks are owed: a server's database, or the file of a fleet."""
    if request.param == "fleet":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        state = FleetState("pool", "hash", [Target(Instance("h"))])
        async with state.locked():
            yield state
        return
    address = None if request.param == "sqlite" else request.getfixturevalue("postgres").database()
    store = await opened(tmp_path, address)
    yield store
    await store.close()


async def test_a_delivery_is_owed_once_and_until_it_is_settled(ledger: HookStore) -> None:
    assert await ledger.owe("run:finished:0", "{}")
    assert not await ledger.owe("run:finished:0", "{}")
    assert list(await ledger.owed()) == [("run:finished:0", "{}")]
    await ledger.settle("run:finished:0", attempts=1)
    assert list(await ledger.owed()) == []
    assert not await ledger.owe("run:finished:0", "{}"), "what was told stays told"


async def test_that_a_hook_was_told_is_written_without_waiting_for_more_to_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "GATHER_S", 3600.0)
    one = await added(store, "one")
    await store.streams.append(told(one, 1))
    async with asyncio.timeout(60):
        await store.settle("one:usable:0", attempts=1)


async def test_only_the_newest_finished_runs_are_kept_and_every_unfinished_one(store: Store) -> None:
    for number in range(6):
        verdict = "complete" if number % 2 else None
        new = await added(
            store, f"run{number}", created_unix=float(number), verdict=verdict, ended_unix=float(number)
        )
        await store.streams.append(told(new, 1))

    assert await store.forget(keep=2) == ["run1"]
    assert [found.run for found in await store.listed(Wanted(state="finished"))] == ["run5", "run3"]
    assert [found.run for found in await store.listed(Wanted(state="going"))] == ["run4", "run2", "run0"]
    assert sorted(await store.forget(keep=10, keep_days=1.0)) == ["run3", "run5"], "they ended long ago"
    count = sa.select(sa.func.count()).select_from(schema.events)
    assert await store.database.ask(lambda line: line.execute(count).scalar()) == 3


async def day_of_runs(store: Store, day: int, *, going: bool = False) -> list[Row]:
    """Two runs that began on *day*, ended within it, or one of them not at all; each has told something."""
    begun = float(day * DAY_S)
    found = []
    for number in range(2):
        verdict = None if going and number else "complete"
        facts = {"created_unix": begun + number, "verdict": verdict, "ended_unix": begun + 100}
        found.append(await added(store, f"day{day}-{number}", **facts))
        await store.streams.append(told(found[-1], 1, 2))
    return found


async def test_what_is_too_old_goes_and_what_goes_on_stays(store: Store) -> None:
    now = days.today()
    await days.make_parts(store.database, now - 20)
    for ago in (20, 10, 3):
        await day_of_runs(store, now - ago, going=ago == 10)

    assert sorted(await store.forget(keep=100, keep_days=5.0)) == [
        f"day{now - 20}-0",
        f"day{now - 20}-1",
        f"day{now - 10}-0",
    ]
    assert {found.run for found in await store.listed(Wanted())} == {
        f"day{now - 10}-1",
        f"day{now - 3}-0",
        f"day{now - 3}-1",
    }
    count = sa.select(sa.func.count()).select_from(schema.events)
    assert await store.database.ask(lambda line: line.execute(count).scalar()) == 6


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
async def test_a_day_goes_as_a_part_and_waits_a_day_for_its_last_run(store: Store) -> None:
    now = days.today()
    await days.make_parts(store.database, now - 6)

    def parts(line: sa.Connection) -> list[int]:
        query = "SELECT relname FROM pg_class WHERE relname LIKE 'events_day_%' AND relkind = 'r'"
        found = (int(name.rpartition("_")[2]) for name in line.execute(sa.text(query)).scalars())
        return sorted(day for day in found if day < now)

    assert await store.database.ask(parts) == [now - 6, now - 5, now - 4]
    for ago in (6, 5, 4):
        [first, _] = await day_of_runs(store, now - ago, going=ago == 5)
        assert await store.streams.last_id(first) == 2
    keep_days = time.time() / DAY_S - (now - 4)
    removed = await store.forget(keep=100, keep_days=keep_days)
    assert sorted(removed) == [f"day{now - 6}-0", f"day{now - 6}-1"], "the day after waits for its last run"
    assert await store.database.ask(parts) == [now - 5, now - 4]
    lone = await store.find(f"day{now - 5}-1")
    assert lone is not None
    await store.update(lone, verdict="failed", ended_unix=float((now - 5) * DAY_S))
    assert len(await store.forget(keep=100, keep_days=keep_days)) == 2
    assert await store.database.ask(parts) == [now - 4]


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
async def test_days_go_later_when_somebody_reads_them_just_now(store: Store) -> None:
    now = days.today()
    await days.make_parts(store.database, now - 9)
    [first, _] = await day_of_runs(store, now - 9)
    with store.database.engine.connect() as reading, reading.begin():
        reading.execute(sa.select(schema.events)).first()
        assert await store.forget(keep=100, keep_days=8.5) == []
    assert len(await store.forget(keep=100, keep_days=8.5)) == 2
    assert await store.streams.last_id(first) == 0


async def test_what_one_run_cannot_have_written_keeps_no_other_from_being_written(store: Store) -> None:
    one = await added(store, "one")

    def bad(line: sa.Connection) -> None:
        line.execute(sa.text("SELECT * FROM no_such_table"))

    results = await asyncio.gather(
        store.streams.append(told(one, 1)),
        store.writer.write(work=bad),
        store.streams.append(told(one, 2)),
        return_exceptions=True,
    )
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
    assert await store.streams.last_id(one) == 2


async def test_tables_of_a_newer_release_are_refused_and_left_alone(
    store: Store, tmp_path: Path, address: str | None
) -> None:
    newer = sa.update(schema.meta).values(value="99")
    await store.database.change(lambda line: line.execute(newer))
    await store.close()
    with pytest.raises(UsageError, match=f"of version 99, and this provision knows {schema.VERSION}"):
        await Store.open(tmp_path, address)


async def test_tables_of_the_next_release_that_this_one_can_work_with_are_taken(
    store: Store, tmp_path: Path, address: str | None
) -> None:
    newer = (
        sa.update(schema.meta).where(schema.meta.c.name == "version").values(value=str(schema.VERSION + 1))
    )
    await store.database.change(lambda line: line.execute(newer))
    await store.close()
    again = await opened(tmp_path, address)
    assert await again.listed(Wanted(state="going")) == []
    await again.close()


def make_first_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until that is undone, new databases get the tables of the first release."""
    upgrade = command.upgrade
    monkeypatch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
    monkeypatch.setattr(schema, "VERSION", 1)


async def test_tables_of_the_release_before_are_brought_up_to_date_and_that_one_works_on(
    tmp_path: Path, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_first_tables(monkeypatch)
    before = await opened(tmp_path / "before", address)
    one = await added(before, "one")
    if address is None:
        await before.close()
    monkeypatch.undo()
    store = await opened(tmp_path / "before" if address is None else tmp_path / "now", address)
    kept = await store.find("one")
    assert kept is not None
    assert kept.plan == one.plan
    await store.instances.watch(instance("i-1"))
    if address is not None:
        await before.streams.append(told(one, 1))
        await before.close()
    facts = sa.select(schema.meta.c.value).order_by(schema.meta.c.name)
    assert await store.database.ask(lambda line: line.execute(facts).scalars().all()) == ["1", "2"]
    await store.close()


async def test_first_tables_without_the_column_that_they_got_later_are_brought_up_to_date(
    tmp_path: Path, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_first_tables(monkeypatch)
    before = await opened(tmp_path / "here", address)
    dropped = sa.text("ALTER TABLE runs DROP COLUMN is_watched_after")
    await before.database.change(lambda line: line.execute(dropped))
    await before.close()
    monkeypatch.undo()

    store = await opened(tmp_path / "here", address)
    await added(store, "one")
    assert await store.find("one") is not None
    await store.close()


@pytest.mark.parametrize("address", [None], ids=["sqlite"])
async def test_a_full_disk_refuses_new_runs_and_keeps_the_others_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_S", 0.01)
    known = await added(store, "known")
    pages = {"limit": 1}

    def limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages['limit']}")

    sa.event.listen(store.database.engine, "begin", limit)
    with pytest.raises(LocalMachineError, match="cannot be written down"):
        await store.add(row("new", plan={"name": "x" * 200_000}))
    change = asyncio.create_task(store.update(known, labels={"text": "x" * 200_000}))
    assert not (await asyncio.wait({change}, timeout=0.2))[0]

    pages["limit"] = AMPLE
    async with asyncio.timeout(20):
        await change
    assert await store.find("known") == known
    assert await store.find("new") is None


@pytest.mark.parametrize("address", [None], ids=["sqlite"])
async def test_a_folder_that_another_server_uses_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another `provision serve`"):
        await Store.open(tmp_path)


# -- instances that are watched


def instance(name: str, **more: Any) -> WatchedRow:
    facts = {"run": "one", "kept": "{}", "health": "{}", "state": "unknown", "since_unix": 1.0}
    return WatchedRow(instance=name, **{**facts, **more})


async def test_a_watched_instance_is_kept_with_what_its_hooks_are_owed_until_it_is_released(
    store: Store,
) -> None:
    await store.instances.watch(instance("i-1"))
    await store.instances.watch(instance("i-2", run="two"))
    sick = instance("i-1", state="degraded", health='{"why": ["hot"]}', since_unix=2.0)
    assert await store.instances.change(sick, [("one@2:health:0", "{}")])
    assert await store.instances.all() == [sick, instance("i-2", run="two")]
    assert await store.owed() == [("one@2:health:0", "{}")]
    assert await store.instances.claim() == [], "they are watched"

    await store.instances.remove(run="one")
    assert not await store.instances.change(sick, [("one@3:health:0", "{}")])
    await store.instances.watch(instance("i-2", run="three"))
    assert not await store.instances.change(instance("i-2", run="two")), "a later run made it anew"
    await store.instances.remove(instance="i-2")
    assert await store.instances.all() == []
    assert await store.owed() == [("one@2:health:0", "{}")]


async def test_the_next_server_watches_what_the_last_one_did_and_forgets_what_is_long_gone(
    store: Store, tmp_path: Path, address: str | None
) -> None:
    await store.instances.watch(instance("i-1", health='{"state": "degraded"}'))
    for name, since in (("long gone", 1.0), ("gone", time.time())):
        await store.instances.watch(instance(name, state="gone", since_unix=since))
    await store.leases.give_back()
    await store.close()

    again = await opened(tmp_path, address)
    await again.instances.bring([instance("i-1"), instance("i-0")])
    assert [row.instance for row in await again.instances.claim()] == ["i-0", "i-1"]
    assert [row.instance for row in await again.instances.all()] == ["gone", "i-0", "i-1"]
    assert (await again.instances.all())[2].health == '{"state": "degraded"}', "what is here already stays"
    await again.instances.forget()
    count = sa.select(sa.func.count()).select_from(schema.instances)
    assert await again.database.ask(lambda line: line.execute(count).scalar()) == 3
    await again.close()


async def test_what_a_server_of_an_earlier_release_watched_comes_from_its_file_once(
    store: Store, tmp_path: Path
) -> None:
    where = {"host": "h", "port": 7, "instance_id": "i-7"}
    old = {
        "instance": where,
        "run": "one",
        "workspace": "/w",
        "profile": "x",
        "labels": {"a": "b"},
        "gpus": 1,
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"instances": [old]}))

    async def reach(instance: Instance) -> Instance:
        return instance

    watching = Instances(store.instances, HookQueue((), store), every_s=None, gone_check=None, reach=reach)
    for _ in range(2):
        await watching.open(path)
        await watching.take_up()
        [told] = await watching.told()
        assert (told["instance"], told["host"], told["labels"]) == ("i-7", "h:7", {"a": "b"})
        assert [health.kept.gpus for health in watching.all()] == [1]
        await watching.drop()
        await store.leases.give_back()
        await store.leases.join(b"", takes_runs=True)
    assert (tmp_path / "instances-1.json").is_file()
    assert not path.exists()


# -- several servers on one database


@pytest.fixture
async def pair(tmp_path: Path, postgres: Postgres) -> AsyncIterator[tuple[Store, Store]]:
    """Two servers on one database."""
    address = postgres.database()
    pair = await opened(tmp_path / "a", address), await opened(tmp_path / "b", address)
    yield pair
    for store in pair:
        await store.close()


async def test_a_server_that_is_not_heard_of_loses_its_runs_and_cannot_write_any_more(
    pair: tuple[Store, Store],
) -> None:
    first, second = pair
    one = await added(first, "one")
    await first.owe("one:usable:0", "{}")
    await first.streams.append(told(one, 1))
    await first.instances.watch(instance("i-1"))
    assert await second.leases.claim(10) == [], "its owner lives"
    second.leases.dead_after_s = 0.0
    assert await second.leases.beat()
    await second.database.change(
        lambda line: line.execute(
            sa.update(schema.workers)
            .where(schema.workers.c.id == second.leases.me)
            .values(seen=sa.text("now() + interval '1 hour'"))
        )
    )
    assert await second.instances.claim() == []
    assert await second.leases.reap() == [first.leases.me]

    assert await second.leases.claim(10) == [one.rid]
    assert await second.owed() == [("one:usable:0", "{}")]
    assert await second.instances.claim() == [instance("i-1")]
    assert not await first.leases.beat()
    first.writer.trouble = "the line was lost"
    for attempt in (
        first.instances.change(instance("i-1", state="gone")),
        first.streams.append(told(one, 2)),
        first.update(one, verdict="failed"),
        first.leases.claim(1),
    ):
        with pytest.raises(FencedError):
            await attempt
    assert first.writer.trouble is None, "it is well, and takes new runs"
    await second.streams.append([EventRow(one.day, one.rid, 2, b"mine")])
    assert await first.streams.after(Place(one.day, one.rid, 1)) == [(2, b"mine")]
    assert (await second.find("one") or one).epoch == 1


async def test_a_run_that_was_given_to_a_server_which_is_dead_by_then_is_taken_by_another(
    pair: tuple[Store, Store],
) -> None:
    first, second = pair
    late = row("late", owner=first.leases.me)
    await first.leases.give_back()
    assert await second.add(late)
    assert await second.leases.claim(10) == [late.rid]


async def test_what_a_server_wanted_to_write_before_it_was_taken_for_dead_is_not_written_when_it_is_back(
    pair: tuple[Store, Store],
) -> None:
    first, second = pair
    one = await added(first, "one")
    mine = sa.select(schema.workers).where(schema.workers.c.id == first.leases.me)
    with second.database.engine.connect() as other, other.begin():
        other.execute(mine.with_for_update())
        begun = asyncio.create_task(first.streams.append(told(one, 1)))
        await asyncio.sleep(
            0.05
        )  # it waits for the row, or, on a busy machine, is not yet there: both are refused
        waiting = asyncio.create_task(first.streams.append(told(one, 2)))
        await asyncio.sleep(0)
        other.execute(
            sa.update(schema.workers).where(schema.workers.c.id == first.leases.me).values(is_dead=True)
        )
        await first.leases.join(b"key", takes_runs=True)
    for attempt in (begun, waiting):
        with pytest.raises(FencedError):
            await attempt
    await first.streams.append(told(one, 1))
    assert await second.streams.last_id(one) == 1


async def test_runs_that_nobody_watches_are_shared_fairly_and_given_back(pair: tuple[Store, Store]) -> None:
    first, second = pair
    rids = {(await added(first, f"run{number}")).rid for number in range(10)}
    await first.leases.give_back(sorted(rids))

    theirs = [await store.leases.claim(100) for store in (first, second, first, second, first, second)]
    assert [len(taken) for taken in theirs[:2]] == [5, 3]
    assert sorted(rid for taken in theirs for rid in taken) == sorted(rids)
    await first.leases.give_back()
    taken = await second.leases.claim(100)
    assert sorted(await second.leases.mine()) == sorted(rids)
    assert taken


async def test_notices_and_orders_come_to_the_server_that_watches(pair: tuple[Store, Store]) -> None:
    first, second = pair
    heard: asyncio.Queue[Any] = asyncio.Queue()
    second.notices.hear(heard.put_nowait)
    assert (await asyncio.wait_for(heard.get(), 20)).what == "everything"
    one = await added(first, "one")
    await first.streams.append(told(one, 1))
    await second.leases.order(one.rid, is_stopping=True)
    await second.leases.give_secrets(one.rid, str(first.leases.me), b"sealed")
    notices = [await asyncio.wait_for(heard.get(), 20) for _ in range(3)]
    assert [notice.what for notice in notices[:2]] == ["free", "news"]
    assert notices[1].runs == {one.rid}

    orders = await first.leases.orders()
    assert (orders.stopping, orders.secrets) == ({one.rid}, ((one.rid, b"sealed"),))
    assert (await first.leases.orders()).secrets == (), "given once"
    assert (await second.leases.watcher_of(one.rid)) is not None


async def test_a_database_that_restarts_is_waited_for_and_nothing_is_doubled(
    pair: tuple[Store, Store], postgres: Postgres
) -> None:
    first, second = pair
    one = await added(first, "one")

    async def tell(numbers: range) -> None:
        for number in numbers:
            await first.streams.append(told(one, number))

    telling = asyncio.create_task(tell(range(1, 40)))
    await asyncio.to_thread(postgres.restart)
    async with asyncio.timeout(25):
        await telling
    assert [number for number, _ in await second.streams.after(Place(one.day, one.rid, 0))] == list(
        range(1, 40)
    )


def test_a_database_that_cannot_be_had_is_said_in_one_sentence(tmp_path: Path, postgres: Postgres) -> None:
    mine, frozen, stranger = postgres.database(), postgres.database(), f"stranger_{os.getpid()}"
    postgres.sql(f"CREATE ROLE {stranger} LOGIN", "postgres")
    postgres.sql(
        f"ALTER DATABASE {frozen.rpartition('/')[2]} SET default_transaction_read_only = on", "postgres"
    )
    for address, said in (
        (mine.replace("postgres@", f"{stranger}@"), "permission denied for schema public"),
        (frozen, "cannot execute CREATE TABLE in a read-only transaction"),
        ("mysql://x/y", "takes PostgreSQL, not `mysql`"),
        ("nonsense", "is no address of a database"),
        (f"postgresql://postgres@127.0.0.1:{postgres.port}/missing", 'database "missing" does not exist'),
        ("postgresql://u:secret@127.0.0.1:9/x", "Connection refused"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            Database.open(address, tmp_path)
        assert "secret" not in f"{refused.value}{refused.value.hint}"
        assert "\n" not in str(refused.value)
        assert refused.value.hint
