"""The fault table of a followed log, row by row: the mirror is what the writer wrote, byte for byte.

The record is kept by the writer itself; nothing that the collector believes is used to judge it. Where a row has a
larger count or a longer wait than fits into every day, the larger one is in the soak.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.network import Network
from harness.tcp_proxy import TcpProxy
from provision_collector.collect.collect import CollectOrder, LogToCollect, collect
from provision_collector.instance import connection

from .collecting import (
    END,
    LONG_S,
    Case,
    cases_of,
    collected_here,
    count,
    ended_as_they_began,
    follower_pids,
    kill,
    reached,
    said_gap,
    through,
    until,
    watch_all,
    without_right,
)
from .conftest import Finished, Here, eventually

SEEDS = [1, 2, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 51))]


def seeds(usual: int, full: int) -> list[Any]:
    """Each seed with a count: two of them every day with the usual one, all others in the soak with the row's own."""
    others = [pytest.param(seed, full, marks=pytest.mark.soak) for seed in range(3, 51)]
    return [(1, usual), (2, usual), *others]


NOTICED_S = 8.0
"""Within so long a link that fell silent is given up: three heartbeats, and some slack for a busy machine."""
SLACK_S = 4.0
"""What a busy machine may add to a wait."""


pytestmark = pytest.mark.usefixtures("own_state")


@pytest.fixture
def proxy(here: Here) -> Iterator[TcpProxy]:
    with TcpProxy((here.instance.host, here.instance.port)) as made:
        yield made


def test_every_row_of_the_table_has_a_test() -> None:
    rows = {int(number) for number in re.findall(r"row_(\d\d)_[a-z]", Path(__file__).read_text())}

    assert rows == set(range(1, 27))


# -- what the writer does


@pytest.mark.parametrize("seed", SEEDS)
def test_row_01_bytes_of_every_kind_arrive_before_their_newline(case: Case, seed: int) -> None:
    child = case.watch()
    case.written("lines:30", "bytes:3000000", "lines:30", seed=seed)
    case.await_all()
    took_ms = []
    for part in (b"half a line \xe2", b"\x9c", b"\x00\xff\xfe", b"x" * 100, b"\r"):
        case.append(part)
        took_ms.append(case.took_ms())
    case.written(f"end:\n{END}", seed=seed)

    case.assert_complete(case.here.finish(child))
    assert min(took_ms) < 100, "nobody waits for the end of a line, or for a poll"


ROTATIONS = {
    "row_02_renamed_and_created_six_times": ["lines:20", "rename"] * 6,
    "row_03_its_writer_goes_on_with_the_old_file": ["lines:20", "rename-late:1", "lines:20"],
    "row_04_renamed_and_deleted_at_once": ["lines:20", "caught-up", "rename-unlink"] * 4,
    "row_05_copied_and_truncated_five_times": ["lines:20", "caught-up", "copytruncate"] * 5,
    "row_07_truncated_and_rewritten_longer": ["lines:20", "caught-up", "rewrite"] * 4,
    "deleted_and_its_writer_goes_on": ["lines:20", "delete", "lines:20", "caught-up"],
    "renamed_and_compressed": ["lines:20", "rename", "lines:20", "compress"] * 3,
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotation(case: Case, name: str) -> None:
    """A log that is followed while it is rotated in this way."""
    child = case.watch()
    steps = [f"mirrored:{case.mirror}" if step == "caught-up" else step for step in ROTATIONS[name]]
    case.write("every:0.002", *steps, "lines:20", f"end:{END}")

    case.assert_complete(case.here.finish(child))


@pytest.mark.parametrize("is_compressed", [False, True], ids=["copied", "copied-and-compressed"])
def test_row_06_what_was_copied_and_truncated_during_a_stall_is_read_from_the_copy(
    case: Case, proxy: TcpProxy, is_compressed: bool
) -> None:
    child = case.watch(connection=through(case, proxy))
    [follower] = follower_pids(case)
    proxy.stall()
    os.kill(follower, signal.SIGSTOP)  # as if the bytes under way filled every buffer up to it
    case.written(
        "bytes:1600000", "copytruncate", *(["compress"] if is_compressed else []), "lines:20", seed=2
    )
    os.kill(follower, signal.SIGCONT)
    proxy.flow()
    case.write("lines:5", f"end:{END}", seed=3)

    case.assert_complete(case.here.finish(child))


# -- what the link does


@pytest.mark.parametrize("kills", count(4, 10))
def test_row_08_sessions_that_are_killed_while_the_log_grows(case: Case, kills: int) -> None:
    child = case.watch()
    case.write("every:0.01", "lines:600", case.go("on"), f"end:{END}")
    took_s = []
    for number in range(1, kills + 1):
        for pid in case.here.instance.pids[1:]:
            os.kill(pid, signal.SIGKILL)
        began, before = time.monotonic(), case.mirror.stat().st_size
        eventually(lambda number=number: case.here.said(child).count('"connected"') > number)
        eventually(lambda before=before: case.mirror.stat().st_size > before or case.has_arrived())
        took_s.append(time.monotonic() - began)
    case.let("on")

    done = case.here.finish(child)

    case.assert_complete(done)
    waits = [event["retry_in_s"] for event in done.named("connection_lost")]
    assert statistics.median(waits) <= 1.0
    assert statistics.median(took_s) <= 1.0 + SLACK_S
    assert max(took_s) <= 10.0 + SLACK_S


@pytest.mark.parametrize("seed", SEEDS)
def test_row_08_links_and_followers_that_are_cut_at_random(case: Case, proxy: TcpProxy, seed: int) -> None:
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


@pytest.mark.parametrize("cuts", count(4, 10))
def test_row_09_links_that_are_cut_inside_of_frames(case: Case, proxy: TcpProxy, cuts: int) -> None:
    rand = random.Random(cuts)
    case.written(f"bytes:{cuts * 500_000}")
    proxy.cut_after = rand.randint(5_000, 600_000)
    child = case.collect(connection=through(case, proxy), timeout=LONG_S)
    for _ in range(cuts):
        seen = proxy.connections
        proxy.cut_after = rand.randint(5_000, 600_000)
        eventually(lambda seen=seen: proxy.connections > seen or case.has_arrived())
    proxy.cut_after = None
    proxy.cut()
    case.await_all()
    case.written(f"end:{END}", seed=2)

    case.assert_complete(case.here.finish(child))


def test_row_10_a_backlog_of_32_megabytes_that_is_cut_every_3_never_begins_again(
    case: Case, proxy: TcpProxy
) -> None:
    case.written("bytes:32000000")
    proxy.cut_after = 3_000_000
    child = case.collect(connection=through(case, proxy))
    case.await_all(within_s=60.0)
    proxy.cut_after = None
    case.written(f"end:{END}", seed=2)

    case.assert_complete(case.here.finish(child))
    assert 10 < proxy.connections <= 20, "32 MB in pieces of nearly 3 MB"
    assert proxy.relayed < 60_000_000, "what a cut had under way comes again, and nothing else"


@pytest.mark.parametrize("silent_s", count(0, 15))
def test_row_11_a_link_that_stalls_in_both_directions(case: Case, proxy: TcpProxy, silent_s: int) -> None:
    child = case.watch(connection=through(case, proxy))
    followers = follower_pids(case)
    proxy.stall()
    stalled = time.monotonic()
    case.write("lines:50", seed=2)
    eventually(lambda: '"silent for 6 s"' in case.here.said(child))
    assert time.monotonic() - stalled <= NOTICED_S
    time.sleep(max(0.0, stalled + silent_s - time.monotonic()))
    proxy.flow()
    healed = time.monotonic()
    case.await_all()
    assert time.monotonic() - healed <= 1.0 + SLACK_S
    case.written(f"end:{END}", seed=3)

    case.assert_complete(case.here.finish(child))
    eventually(lambda: not set(followers) & set(follower_pids(case)), within_s=60.0)


def test_row_12_a_server_that_went_away_while_the_connection_stays_mute(case: Case, proxy: TcpProxy) -> None:
    child = case.watch(connection=through(case, proxy))
    proxy.mute()
    muted, before = time.monotonic(), proxy.connections
    case.here.instance.restart()
    case.write("lines:50", seed=2)
    eventually(lambda: proxy.connections > before)
    assert time.monotonic() - muted <= NOTICED_S
    case.await_all()
    case.written(f"end:{END}", seed=3)

    case.assert_complete(case.here.finish(child))


@pytest.mark.parametrize("mute_s", count(1, 12))
async def test_row_13_a_port_that_takes_connections_and_says_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch, mute_s: int
) -> None:
    if mute_s < connection.CONNECT_TIMEOUT_S:
        monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 1.0)
        monkeypatch.setattr(connection, "LOGIN_TIMEOUT_S", 1.0)
    instance, events = case.here.instance, list[dict[str, Any]]()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        order = CollectOrder((LogToCollect(str(case.log), case.mirror),), timeout_s=60)
        work = asyncio.create_task(collect(reached(case.here, port=port), order, on_event=events.append))
        await until(lambda: any(event["event"] == "connecting" for event in events))
    case.written("lines:3")
    with TcpProxy((instance.host, instance.port), port=port):
        await until(case.has_arrived)
        case.written(f"end:{END}", seed=2)

        assert (await work)["verdict"] == "complete"
    assert {event["cause"] for event in events if event["event"] == "connecting"} <= {"timed-out", "refused"}
    case.assert_exact()


@pytest.fixture
def network(case: Case) -> Iterator[Network]:
    """The instance is in a network of its own."""
    if why_not := Network.why_not():
        without_right(why_not)
    instance = case.here.instance
    instance.stop()
    config = instance.key_path.parent / "sshd_config"
    config.write_text(config.read_text().replace("ListenAddress 127.0.0.1", "ListenAddress 0.0.0.0"))
    instance.host = Network.host
    with Network() as made:
        with made.inside("instance"):
            instance.start()
        yield made
        instance.stop()


@pytest.mark.parametrize(
    ("dead_s", "back_s"),
    [(3, 0.5), pytest.param(20, 1.0, marks=pytest.mark.soak), pytest.param(60, 10.0, marks=pytest.mark.soak)],
)
@pytest.mark.usefixtures("cold")  # it must be in the test's own network
def test_row_14_a_network_that_drops_every_packet(
    case: Case, network: Network, dead_s: float, back_s: float
) -> None:
    with network.inside("here"):
        child = case.watch(timeout=LONG_S)
    followers = follower_pids(case)
    network.drop()
    dropped = time.monotonic()
    case.write("every:0.01", "lines:100", seed=2)
    if dead_s > NOTICED_S:
        eventually(lambda: '"connection_lost"' in case.here.said(child))
        assert time.monotonic() - dropped <= NOTICED_S
        eventually(lambda: not set(followers) & set(follower_pids(case)), within_s=60.0)
    time.sleep(max(0.0, dropped + dead_s - time.monotonic()))
    network.flow()
    healed = time.monotonic()
    case.await_all()
    took_s = time.monotonic() - healed
    case.written(f"end:{END}", seed=3)

    case.assert_complete(case.here.finish(child))
    assert took_s <= back_s + SLACK_S


# -- what happens to the collector


@pytest.mark.parametrize(("seed", "kills"), seeds(4, 15))
def test_row_15_a_collector_that_is_killed_at_random_moments(case: Case, seed: int, kills: int) -> None:
    rand = random.Random(seed)
    case.write(
        "every:0.0005", *["lines:400", "rename"] * 8, case.go("on"), "lines:5", f"end:{END}", seed=seed
    )
    for _ in range(kills):
        child = case.collect()
        before = case.mirror.stat().st_size if case.mirror.exists() else 0
        case.await_progress(child, before)
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
    "renamed three times, and the older ones compressed": [
        *("lines:50", "rename", "bytes:300000", "rename", "compress", "lines:5", "rename", "lines:5")
    ],
}


def test_row_16_a_log_that_was_rotated_while_nobody_was_there(here: Here) -> None:
    with cases_of(here, len(WHILE_AWAY)) as cases:
        child = watch_all(cases)
        for case in cases:
            case.written("lines:50", seed=2)
            case.await_all()
        kill(child)
        for case, steps in zip(cases, WHILE_AWAY.values(), strict=True):
            case.written(*steps, seed=3)
        ended_as_they_began(cases, watch_all(cases))


@pytest.mark.parametrize(("seed", "kills"), seeds(3, 12))
def test_row_17_a_collector_that_is_killed_as_a_generation_begins(case: Case, seed: int, kills: int) -> None:
    rand = random.Random(seed)
    case.written("lines:3")
    for number in range(kills):
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


# -- what the lines say


def test_row_18_a_marker_in_three_pieces_counts_with_its_newline_and_not_before(case: Case) -> None:
    child = case.watch()
    for part in (b"\xe2\x9c", b"\x85 PROVISIONING", b" COMPLETE"):
        case.append(part)
        case.await_all()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=0.6)
    case.append(b"\n")

    case.assert_complete(case.here.finish(child))


def test_row_19_an_earlier_marker_a_quoted_one_and_a_failure_in_passing_end_nothing(case: Case) -> None:
    case.written("lines:5", f"end:{END}", "lines:5")
    child = case.collect()
    case.await_all()
    case.written(
        "lines:5",
        f'end:echo "{END}"',
        "end:child says FATAL: no such thing",
        "end:2026-01-01 10:00:00 [ERROR] FATAL: this is it",
        seed=2,
    )

    done = case.here.finish(child)

    assert (done.code, done.outcome["line"][-10:]) == (1, "this is it"), done.stdout
    case.assert_exact()


# -- what is on the instance


def test_row_20_a_login_shell_that_is_slow_and_noisy_is_waited_for_and_not_mirrored(case: Case) -> None:
    (case.here.instance.home / ".bashrc").write_text("head -c 100000 /dev/urandom; sleep 8\n")
    child = case.collect()
    case.write("every:0.05", "lines:200", case.go("on"), f"end:{END}")
    eventually(lambda: case.mirror.exists() and case.mirror.stat().st_size > 0)
    case.let("on")

    done = case.here.finish(child)

    case.assert_complete(done)
    assert done.outcome["reconnects"] == 0


@pytest.mark.parametrize("refused_s", count(0, 20))
def test_row_21_a_log_that_is_born_late_on_an_instance_that_refuses_and_a_second_collector(
    case: Case, refused_s: int
) -> None:
    child = case.collect()
    eventually(lambda: '"log_missing"' in case.here.said(child))

    second = case.collected()
    assert (second.code, second.outcome["verdict"]) == (2, "usage")

    case.here.instance.stop()
    stopped = time.monotonic()
    case.written("lines:30", seed=2)
    eventually(lambda: case.here.said(child).count("refused") >= 2)
    time.sleep(max(0.0, stopped + refused_s - time.monotonic()))
    case.here.instance.start()
    case.await_all()
    case.written(f"end:{END}", seed=3)

    case.assert_complete(case.here.finish(child))


@pytest.mark.parametrize("how", ["rename", "rename-and-compress"])
def test_row_22_what_was_rotated_before_the_first_look_comes_first_if_its_writer_lives(
    case: Case, how: str
) -> None:
    rotate = how.split("-and-")
    case.write("lines:40", *rotate, "lines:40", *rotate, "lines:5", case.go("on"), f"end:{END}")
    older = case.log.parent / "app.log.9"
    older.write_text("an older life\n")
    os.utime(older, (1, 1))
    eventually(lambda: len(list(case.log.parent.glob("app.log.2*"))) and case.log.stat().st_size > 0)
    child = case.collect()
    case.await_all()
    case.let("on")

    case.assert_complete(case.here.finish(child))


def test_row_22_what_was_rotated_before_the_first_look_by_nobody_knows_whom_is_a_gap(case: Case) -> None:
    case.written("lines:40", "rename", "lines:30", "rename", "lines:3")
    size = sum(path.stat().st_size for path in case.log.parent.glob("app.log.*"))
    child = case.collect()
    eventually(lambda: said_gap(case, child))
    case.written(f"end:{END}", seed=2)

    done = case.here.finish(child)

    assert (done.code, [gap["bytes"] for gap in done.outcome["gaps"]]) == (0, [size])
    assert case.mirror.read_bytes() == case.record.read_bytes()[size:], "after the gap everything is there"


def test_row_23_a_log_that_vanished_with_unread_bytes_is_a_gap(case: Case, proxy: TcpProxy) -> None:
    child = case.watch(connection=through(case, proxy))
    known = case.mirror.stat().st_size
    proxy.refuse()
    case.written("lines:30", seed=2)
    case.log.unlink()
    case.record.unlink()
    case.written("lines:30", seed=3)
    eventually(lambda: follower_pids(case) == [])
    proxy.accept()
    eventually(lambda: said_gap(case, child))
    case.written(f"end:{END}", seed=4)

    done = case.here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout
    assert [gap["bytes"] for gap in done.outcome["gaps"]] == [None], "nobody knows how many there were"
    assert case.mirror.read_bytes()[known:] == case.record.read_bytes(), "after the gap everything is there"


def test_row_23_a_log_of_another_instance_is_never_silently_spliced(case: Case, here: Here) -> None:
    child = case.watch()
    case.written("bytes:5000", seed=2)
    case.await_all()
    kill(child)
    old = case.mirror.read_bytes()
    case.log.unlink()
    case.record.unlink()
    case.written("bytes:9000", seed=5)
    child = case.collect()
    eventually(lambda: said_gap(case, child))
    case.written(f"end:{END}", seed=6)

    done = here.finish(child)

    assert [gap["bytes"] for gap in done.outcome["gaps"]] == [None]
    assert case.mirror.read_bytes() == old + case.record.read_bytes()


BLIND_PYTHON = """#!/bin/sh
exec unshare -Ur sh -c 'echo 0 > /proc/sys/user/max_inotify_instances; exec "$@"' sh {python} "$@"
"""


@pytest.fixture
def instance_environment(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """Row 24: an instance that lacks something."""
    tools = tmp_path / "tools"
    tools.mkdir()
    if "without_inotify" in request.fixturenames:
        if subprocess.run(["unshare", "-Ur", "true"], capture_output=True, timeout=10).returncode:
            without_right("this machine does not let its users make namespaces")
        (tools / "python3").write_text(BLIND_PYTHON.format(python=shutil.which("python3")))
        (tools / "python3").chmod(0o755)
        return {"PATH": f"{tools}:{os.environ['PATH']}"}
    if "without_python" in request.fixturenames:
        for name in ("sh", "stat", "tail", "head", "wc", "ls"):
            (tools / name).symlink_to(str(shutil.which(name)))
        return {"PATH": str(tools)}
    return {}


@pytest.fixture
def without_inotify(here: Here) -> Here:
    return here


@pytest.fixture
def without_python(here: Here) -> Here:
    return here


@pytest.mark.parametrize("looks", count(20, 500))
def test_row_24_without_inotify_it_looks_every_few_milliseconds(
    case: Case, without_inotify: Here, looks: int
) -> None:
    child = case.watch(timeout=LONG_S)
    took_ms = []
    for _ in range(looks):
        case.append(b"x")
        took_ms.append(case.took_ms())
    case.written("lines:1", "rename", "lines:20", "copytruncate", f"end:{END}", seed=2)

    case.assert_complete(case.here.finish(child))
    assert statistics.median(took_ms) <= 60, "with inotify's poll of half a second it would be 250"
    print(
        f"without inotify: p50 {statistics.median(took_ms):.0f} ms, p99 {sorted(took_ms)[int(looks * 0.99)]:.0f} ms"
    )


def test_row_24_without_python_it_polls_by_tail_and_is_as_exact(case: Case, without_python: Here) -> None:
    child = case.watch("--poll-interval", "0.2")
    caught_up = f"mirrored:{case.mirror}"
    case.write(
        "every:0.01", "lines:40", "rename", "lines:40", caught_up, "copytruncate", "lines:30", caught_up,
        "rename", "lines:5", "rename", "lines:20", f"end:{END}",
    )  # fmt: skip

    done = case.here.finish(child)

    case.assert_complete(done)
    assert "no python3" in done.outcome["warnings"][0]


def test_without_python_a_directory_is_said_at_once_too(case: Case, without_python: Here) -> None:
    case.log.mkdir()

    done = case.collected()

    assert done.code == 2, done.stdout
    assert "is a directory, and not a file" in done.outcome["errors"][0]["message"]


def test_row_24_without_python_a_killed_collector_goes_on(case: Case, without_python: Here) -> None:
    case.written("lines:10")
    child = case.collect("--poll-interval", "0.1")
    case.await_all()
    kill(child)
    case.write(
        "every:0.01", "lines:150", "rename", "lines:50", "rename", "lines:50", case.go("on"), f"end:{END}", seed=2
    )  # fmt: skip
    for _ in range(2):
        child = case.collect("--poll-interval", "0.1")
        before = case.mirror.stat().st_size
        eventually(lambda before=before: case.mirror.stat().st_size > before + 1000 or case.has_arrived())
        kill(child)
    case.let("on")

    case.assert_complete(case.collected("--poll-interval", "0.1"))


# -- many at once, and this machine


@pytest.mark.parametrize("hosts", count(12, 200))
async def test_row_25_many_collectors_whose_instance_restarts_all_come_back(case: Case, hosts: int) -> None:
    cases = [Case(case.here, f"host{number}/app.log") for number in range(hosts)]
    for each in cases:
        each.append(b"the first line\n")
    instance = reached(case.here)
    work = [
        asyncio.create_task(collected_here(each, instance, timeout_s=25 if hosts < 100 else 300))
        for each in cases
    ]
    await until(lambda: all(each.has_arrived() for each in cases), within_s=hosts)
    restarted = time.monotonic()
    await asyncio.to_thread(case.here.instance.restart)
    for each in cases:
        each.append(f"a line\n{END}\n".encode())

    outcomes = await asyncio.gather(*work)

    assert time.monotonic() - restarted <= 30 + hosts * 0.2, "30 s, and what a busy machine adds"
    assert {outcome["verdict"] for outcome in outcomes} == {"complete"}
    for each in cases:
        each.assert_exact()


async def test_row_25_no_more_than_sixteen_handshakes_at_once(case: Case) -> None:
    open_at_once: list[asyncio.StreamWriter] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_at_once.append(writer)
        await reader.read()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    instance = reached(case.here, port=port)
    work = [asyncio.create_task(connection.connect(instance)) for _ in range(60)]
    await until(lambda: len(open_at_once) >= connection.HANDSHAKES_AT_ONCE)
    await asyncio.sleep(0.3)

    assert len(open_at_once) == connection.HANDSHAKES_AT_ONCE == 16
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    server.close()
    for writer in open_at_once:
        writer.close()


def assert_local(done: Finished) -> None:
    assert (done.code, done.outcome["verdict"]) == (74, "local"), done.stdout + done.stderr


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, timeout=10
    )  # fmt: skip
    if made.returncode:
        without_right(f"this user cannot mount: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


def test_row_26_a_disk_that_is_full_ends_it_with_74_and_leaves_no_gap(case: Case) -> None:
    with small_disk(case.here.folder / "disk") as disk:
        case.mirror = disk / "app.log.mirror"
        child = case.watch()
        case.written("bytes:1500000", seed=2)

        assert_local(case.here.finish(child))

        assert case.record.read_bytes().startswith(case.mirror.read_bytes())
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True, timeout=10)
        child = case.collect()
        case.await_all()
        case.written(f"end:{END}", seed=3)
        case.assert_complete(case.here.finish(child))


def test_row_26_a_disk_that_is_read_only_ends_it_with_74_and_leaves_no_gap(case: Case) -> None:
    with small_disk(case.here.folder / "disk") as disk:
        case.mirror = disk / "app.log.mirror"
        kill(case.watch())
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=10)
        case.written("lines:20", f"end:{END}", seed=2)

        assert_local(case.collected())

        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True, timeout=10)
        case.assert_complete(case.collected())


def test_row_26_a_file_that_may_grow_no_more_is_as_a_full_disk(case: Case) -> None:
    child = case.watch()
    limit = case.mirror.stat().st_size + 50_000
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (limit, limit))
    case.written("bytes:100000", seed=2)

    assert_local(case.here.finish(child))

    assert case.mirror.stat().st_size == limit
    child = case.collect()
    case.await_all()
    case.written(f"end:{END}", seed=3)
    case.assert_complete(case.here.finish(child))
