"""Every fault that a remote log meets, one test each: the mirror is what the writer wrote, byte for byte.

The record is kept by the writer itself; nothing that the collector believes is used to judge it.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from harness.dropbear import Dropbear
from harness.tcp_proxy import TcpProxy
from provision_collector.collect import CollectOrder, LogToCollect, collect
from provision_collector.instance import Instance, connection

from .collecting import END, Case, case_of, cases_of, kill, watch_all
from .conftest import Child, Here, eventually

SEEDS = [1, 2, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 51))]
NOTICED_S = 8.0
"""Within so long a link that fell silent is given up: three heartbeats, and some slack for a busy machine."""


@pytest.fixture
def case(here: Here) -> Iterator[Case]:
    with case_of(here) as made:
        yield made


@pytest.fixture
def proxy(here: Here) -> Iterator[TcpProxy]:
    with TcpProxy((here.instance.host, here.instance.port)) as made:
        yield made


def through(case: Case, proxy: TcpProxy) -> list[str]:
    return case.here.connection(port=proxy.port)


def follower_pids(case: Case) -> list[int]:
    """The followers that run on the instance."""
    found = []
    for pid in case.here.instance.processes:
        with suppress(OSError):  # it ended while we looked
            found += [pid] if b"b64decode" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return found


# -- what the writer does


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_of_every_kind_arrive_as_they_are_and_before_their_newline(case: Case, seed: int) -> None:
    child = case.watch()
    case.written("lines:30", "bytes:3000000", "lines:30", seed=seed)
    with case.log.open("ab") as log, case.record.open("ab") as record:
        for part in (b"half a line \xe2", b"\x9c", b"\x00\xff\xfe"):
            for file in (log, record):
                file.write(part)
                file.flush()
            case.await_all()
    case.written(f"end:\n{END}", seed=seed)

    case.assert_complete(case.here.finish(child))


ROTATIONS = {
    "renamed and created six times": ["lines:20", "rename"] * 6,
    "renamed while its writer goes on with the old file for a second": [
        "lines:20",
        "rename-late:1",
        "lines:20",
    ],
    "renamed and deleted at once": ["lines:20", "pause:0.5", "rename-unlink", "lines:20"] * 2,
    "copied and truncated five times": ["lines:20", "pause:0.3", "copytruncate"] * 5,
    "truncated and written anew and longer": ["lines:20", "pause:0.4", "rewrite"] * 3,
    "deleted, and its writer goes on": ["lines:20", "delete", "lines:20", "pause:0.3"],
}


def test_a_log_is_followed_while_it_is_rotated_in_every_way(here: Here) -> None:
    with cases_of(here, len(ROTATIONS)) as cases:
        child = watch_all(cases)
        for case, steps in zip(cases, ROTATIONS.values(), strict=True):
            case.write("every:0.002", *steps, "lines:20", "end:the last line")
        ended_as_they_began(cases, child)


def ended_as_they_began(cases: list[Case], child: Child) -> None:
    """When every writer is done, every mirror is exact; then the first log says the end."""
    for case in cases:
        case.await_written()
        case.await_all()
    cases[0].written(f"end:{END}", seed=99)
    done = cases[0].here.finish(child)
    assert (done.code, done.outcome["gaps"]) == (0, []), done.stdout + done.stderr
    for case in cases:
        case.assert_exact()


def test_what_was_copied_and_truncated_during_a_stall_is_read_from_the_copy(
    case: Case, proxy: TcpProxy
) -> None:
    child = case.watch(connection=through(case, proxy))
    proxy.stall()
    case.written("bytes:1600000", "copytruncate", "lines:20", seed=2)
    proxy.flow()
    case.write("lines:5", f"end:{END}", seed=3)

    case.assert_complete(case.here.finish(child))


# -- what the link does


@pytest.mark.parametrize("seed", SEEDS)
def test_a_link_that_is_cut_again_and_again_costs_no_byte(case: Case, proxy: TcpProxy, seed: int) -> None:
    rand = random.Random(seed)
    child = case.watch(connection=through(case, proxy))
    case.write("every:0.002", "lines:1200", case.go("on"), f"end:{END}", seed=seed)
    for _ in range(8):
        before = proxy.connections
        followers = follower_pids(case)
        if followers and rand.random() < 0.5:
            os.kill(rand.choice(followers), signal.SIGKILL)
        else:
            proxy.cut()
        eventually(lambda before=before: follower_pids(case) and proxy.connections >= before)
        time.sleep(rand.uniform(0, 0.2))
    case.let("on")

    done = case.here.finish(child)

    case.assert_complete(done)
    assert done.outcome["reconnects"] >= 3


def test_a_link_that_is_cut_inside_of_frames_goes_on_where_it_broke(case: Case, proxy: TcpProxy) -> None:
    rand = random.Random(7)
    case.written("bytes:2000000")
    child = case.collect(connection=through(case, proxy))
    for _ in range(4):
        proxy.cut_after = rand.randint(5_000, 600_000)
        seen = proxy.connections
        eventually(lambda seen=seen: proxy.connections > seen or case.has_arrived())
    proxy.cut_after = None
    proxy.cut()
    case.await_all()
    case.written(f"end:{END}", seed=2)

    case.assert_complete(case.here.finish(child))


def test_a_backlog_that_is_cut_every_few_megabytes_never_begins_again(case: Case, proxy: TcpProxy) -> None:
    case.written("bytes:32000000")
    proxy.cut_after = 4_000_000
    child = case.collect(connection=through(case, proxy))
    case.await_all()
    proxy.cut_after = None
    case.written(f"end:{END}", seed=2)

    case.assert_complete(case.here.finish(child))
    assert proxy.connections <= 20, "32 MB in pieces of nearly 4 MB"


def test_a_link_that_falls_silent_is_noticed_and_replaced_also_when_the_server_went_away(
    case: Case, proxy: TcpProxy
) -> None:
    child = case.watch(connection=through(case, proxy))
    followers = follower_pids(case)
    proxy.stall()
    stalled, before = time.monotonic(), proxy.connections
    case.here.instance.restart()
    case.write("lines:50", seed=2)
    eventually(lambda: proxy.connections > before)
    assert time.monotonic() - stalled <= NOTICED_S
    proxy.flow()
    case.await_all()
    case.written(f"end:{END}", seed=3)

    case.assert_complete(case.here.finish(child))
    eventually(lambda: not set(followers) & set(follower_pids(case)), within_s=20)


async def test_a_port_that_takes_connections_and_says_nothing_is_tried_again(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(connection, "LOGIN_TIMEOUT_S", 1.0)
    instance, events = case.here.instance, list[dict[str, Any]]()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        reached = Instance(instance.host, port=port, user=instance.user, key=str(instance.key_path))
        order = CollectOrder((LogToCollect(str(case.log), case.mirror),), timeout_s=20)
        work = asyncio.create_task(collect(reached, order, on_event=events.append))
        await until(lambda: any(event["event"] == "connecting" for event in events))
    case.written("lines:3")
    with TcpProxy((instance.host, instance.port), port=port):
        await until(case.has_arrived)
        case.written(f"end:{END}", seed=2)

        assert (await work)["verdict"] == "complete"
    case.assert_exact()


def test_an_instance_that_refuses_for_a_while_is_waited_for(case: Case) -> None:
    child = case.watch()
    case.here.instance.stop()
    case.write("lines:30", seed=2)
    eventually(lambda: case.here.said(child).count("refused") >= 3)
    case.here.instance.start()
    case.await_all()
    case.written(f"end:{END}", seed=3)

    case.assert_complete(case.here.finish(child))


def test_so_many_failed_reconnects_in_a_row_and_no_more(case: Case) -> None:
    child = case.watch("--max-attempts", "3")
    case.here.instance.stop()

    done = case.here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (12, "contact-lost")
    assert "in 3 attempts" in done.outcome["errors"][0]["message"]


# -- what happens to the collector


@pytest.mark.parametrize("seed", SEEDS)
def test_a_collector_that_is_killed_at_random_moments_loses_and_repeats_nothing(
    case: Case, seed: int
) -> None:
    rand = random.Random(seed)
    case.write("every:0.001", *["lines:250", "rename"] * 8, case.go("on"), "lines:5", f"end:{END}", seed=seed)
    for _ in range(5):
        child = case.collect()
        before = case.mirror.stat().st_size if case.mirror.exists() else 0
        eventually(lambda before=before: case.mirror.stat().st_size != before or case.has_arrived())
        time.sleep(rand.uniform(0, 0.3))
        kill(child)
    child = case.collect()
    case.let("on")

    case.assert_complete(case.here.finish(child))


WHILE_AWAY = {
    "renamed twice": ["lines:50", "rename", "lines:50", "rename", "lines:50"],
    "copied and truncated, and grew past its old size": [
        "lines:50",
        "copytruncate",
        "bytes:200000",
        "lines:5",
    ],
    "copied and truncated twice": ["lines:5", "copytruncate", "lines:50", "copytruncate", "lines:5"],
    "renamed, then copied and truncated": ["lines:50", "rename", "lines:50", "copytruncate", "lines:5"],
}


def test_a_log_that_was_rotated_in_every_way_while_nobody_was_there_is_whole(here: Here) -> None:
    with cases_of(here, len(WHILE_AWAY)) as cases:
        child = watch_all(cases)
        for case in cases:
            case.written("lines:50", seed=2)
            case.await_all()
        kill(child)
        for case, steps in zip(cases, WHILE_AWAY.values(), strict=True):
            case.written(*steps, seed=3)
        ended_as_they_began(cases, watch_all(cases))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_collector_that_is_killed_as_a_generation_begins_is_as_exact(case: Case, seed: int) -> None:
    rand = random.Random(seed)
    case.written("lines:3")
    for number in range(3):
        child = case.watch()
        state = Path(f"{case.mirror}.state.json")
        before = state.read_text()
        case.written("lines:3", rand.choice(["rename", "copytruncate"]), "lines:3", seed=seed * 100 + number)
        eventually(lambda before=before, state=state: state.read_text() != before)
        time.sleep(rand.uniform(0, 0.03))
        kill(child)
    child = case.watch()
    case.written(f"end:{END}", seed=seed * 100 + 99)

    case.assert_complete(case.here.finish(child))


def test_a_full_disk_ends_it_with_74_and_leaves_no_gap(case: Case) -> None:
    child = case.watch()
    limit = case.mirror.stat().st_size + 50_000
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (limit, limit))
    case.written("bytes:100000", seed=2)

    done = case.here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (74, "local"), done.stdout + done.stderr
    assert case.mirror.stat().st_size == limit
    child = case.collect()
    case.await_all()
    case.written(f"end:{END}", seed=3)
    case.assert_complete(case.here.finish(child))


# -- what is on the instance


def test_a_login_shell_that_is_slow_and_noisy_is_waited_for_and_not_mirrored(case: Case) -> None:
    (case.here.instance.home / ".bashrc").write_text("head -c 100000 /dev/urandom; sleep 7\n")
    child = case.collect()
    case.write("every:0.05", "lines:200", case.go("on"), f"end:{END}")
    eventually(lambda: case.mirror.exists() and case.mirror.stat().st_size > 0)
    case.let("on")

    done = case.here.finish(child)

    case.assert_complete(done)
    assert done.outcome["reconnects"] == 0


def test_what_was_rotated_before_the_first_look_comes_first_if_its_writer_still_lives(case: Case) -> None:
    case.write("lines:40", "rename", "lines:40", "rename", "lines:5", case.go("on"), f"end:{END}")
    (case.log.parent / "app.log.9").write_text("an older life\n")
    os.utime(case.log.parent / "app.log.9", (1, 1))
    eventually(lambda: case.log.stat().st_size > 0 and (case.log.parent / "app.log.2").exists())
    child = case.collect()
    case.await_all()
    case.let("on")

    case.assert_complete(case.here.finish(child))


def test_what_was_rotated_before_the_first_look_by_nobody_knows_whom_is_a_gap(case: Case) -> None:
    case.written("lines:40", "rename")
    size = (case.log.parent / "app.log.1").stat().st_size
    child = case.collect()
    eventually(lambda: '"gap"' in case.here.said(child))
    case.written(f"end:{END}", seed=2)

    done = case.here.finish(child)

    assert done.code == 0
    assert [gap["bytes"] for gap in done.outcome["gaps"]] == [size]


def test_bytes_that_were_deleted_while_the_link_was_down_are_a_gap_with_its_size(
    case: Case, proxy: TcpProxy
) -> None:
    child = case.watch(connection=through(case, proxy))
    known = case.mirror.stat().st_size
    case.record.unlink()
    proxy.refuse()
    case.log.unlink()
    case.written("lines:30", seed=2)
    proxy.accept()
    eventually(lambda: '"gap"' in case.here.said(child))
    case.written(f"end:{END}", seed=3)

    done = case.here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout
    assert len(done.outcome["gaps"]) == len(done.named("gap")) == 1
    assert case.mirror.read_bytes()[known:] == case.record.read_bytes(), "after the gap everything is there"


def test_a_log_of_another_instance_is_not_silently_continued(case: Case, here: Here) -> None:
    child = case.watch()
    case.written("bytes:5000", seed=2)
    case.await_all()
    kill(child)
    old = case.mirror.read_bytes()
    case.log.unlink()
    case.record.unlink()
    case.written("bytes:9000", seed=5)
    child = case.collect()
    eventually(lambda: '"gap"' in here.said(child))
    case.written(f"end:{END}", seed=6)

    done = here.finish(child)

    assert [gap["bytes"] for gap in done.outcome["gaps"]] == [None]
    assert case.mirror.read_bytes() == old + case.record.read_bytes()


async def test_a_key_that_is_revoked_is_noticed_while_the_connection_still_works(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    instance = case.here.instance
    order = CollectOrder((LogToCollect(str(case.log), case.mirror),), timeout_s=20, probe_every_s=0.2)
    events: list[dict[str, Any]] = []
    reached = Instance(instance.host, port=instance.port, user=instance.user, key=str(instance.key_path))
    case.written("lines:1")
    work = asyncio.create_task(collect(reached, order, on_event=events.append))
    await until(case.has_arrived)
    (instance.home.parent / "authorized_keys").write_text("")
    await until(lambda: any(event["event"] == "warning" for event in events))
    case.written(f"end:{END}", seed=2)

    outcome = await work

    assert outcome["verdict"] == "complete"
    assert "there would be no way back" in outcome["warnings"][0]


async def test_many_collectors_whose_instance_restarts_all_come_back(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    instance = case.here.instance
    reached = Instance(instance.host, port=instance.port, user=instance.user, key=str(instance.key_path))
    cases = [Case(case.here, f"app{number}.log") for number in range(12)]
    for each in cases:
        each.written("lines:1")
    orders = [CollectOrder((LogToCollect(str(each.log), each.mirror),), timeout_s=25) for each in cases]
    work = [asyncio.create_task(collect(reached, order, on_event=lambda _: None)) for order in orders]
    await until(lambda: all(each.has_arrived() for each in cases))
    await asyncio.to_thread(instance.restart)
    for each in cases:
        each.written("lines:3", f"end:{END}", seed=2)

    outcomes = await asyncio.gather(*work)

    assert {outcome["verdict"] for outcome in outcomes} == {"complete"}
    for each in cases:
        each.assert_exact()


async def until(condition: Callable[[], Any], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_line_of_fifty_megabytes_arrives_and_costs_no_memory(case: Case) -> None:
    child = case.watch()
    with case.log.open("ab") as log, case.record.open("ab") as record:
        for _ in range(50):
            for file in (log, record):
                file.write(b"x" * 1_000_000)
                file.flush()
    case.await_all()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text())
    case.written(f"end:\n{END}", seed=2)

    case.assert_complete(case.here.finish(child))
    assert peak is not None
    assert int(peak[1]) < 150_000, "kB; the interpreter and its libraries take half of it"


def test_an_instance_that_prints_for_ever_ends_by_the_timeout_and_costs_no_memory(case: Case) -> None:
    (case.here.instance.home / ".bashrc").write_text("exec cat /dev/zero\n")
    child = case.collect(timeout="5")
    peaks = []
    while child.poll() is None:
        with suppress(OSError, AttributeError):
            status = Path(f"/proc/{child.pid}/status").read_text()
            peaks.append(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]))  # type: ignore[index]
        time.sleep(0.05)

    done = case.here.finish(child)

    assert done.code == 124, done.stdout
    assert done.named("connection_lost")[0]["cause"] == "garbled: no hello, only other output"
    assert max(peaks) < 150_000
    assert case.mirror.read_bytes() == b""


class Refusing(asyncssh.SSHServer):
    """An endpoint that lets everybody in, and starts nothing."""

    def begin_auth(self, username: str) -> bool:
        return False


ENDPOINTS: dict[str, Any] = {
    "opens no session": {},
    "says that it wants a terminal": {
        "process_factory": lambda process: (process.stderr.write("Error: your SSH client doesn't support PTY\n"), process.exit(1))
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ENDPOINTS)
async def test_a_proxy_that_is_a_terminal_only_is_named_with_what_to_use_instead(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Refusing, server_host_keys=[key], **ENDPOINTS[name]
    )
    order = CollectOrder((LogToCollect("/x.log", tmp_path / "x.log"),), timeout_s=20)
    reached = Instance("127.0.0.1", port=server.get_port(), user="me")
    try:
        outcome = await collect(reached, order, on_event=lambda _: None)
    finally:
        server.close()
        await server.wait_closed()

    assert (outcome["verdict"], outcome["exit_code"]) == ("unreachable", 10)
    assert outcome["errors"][0]["class"] == "no-exec"
    assert "direct SSH address" in outcome["errors"][0]["hint"]


@pytest.fixture
def dropbear(case: Case, tmp_path: Path) -> Iterator[Dropbear]:
    if why_not := Dropbear.why_not():
        pytest.skip(why_not)
    key = asyncssh.read_private_key(case.here.instance.key_path).export_public_key().decode()
    with Dropbear(tmp_path / "dropbear", public_key=key) as server:
        yield server


def test_another_ssh_server_is_as_good(case: Case, dropbear: Dropbear) -> None:
    child = case.watch(connection=case.here.connection(port=dropbear.port))
    case.write("every:0.002", "lines:200", "rename", "lines:200", case.go("on"), f"end:{END}", seed=2)
    for lost in (1, 2):
        dropbear.cut()
        eventually(lambda lost=lost: case.here.said(child).count('"connected"') > lost)
    case.let("on")

    done = case.here.finish(child)

    case.assert_complete(done)
    assert done.outcome["reconnects"] >= 2
