"""What the fault table has no row for: sizes, a hostile instance, another server, and ways that are closed for good."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from harness.dropbear import Dropbear
from provision_collector.collect.collect import CollectOrder, LogToCollect, collect
from provision_collector.instance import Instance

from .collecting import END, LONG_S, Case, follower_pids, kill, until
from .conftest import Here, eventually

pytestmark = pytest.mark.usefixtures("own_state")


def test_so_many_failed_reconnects_in_a_row_and_no_more(case: Case) -> None:
    child = case.watch("--max-attempts", "3")
    case.here.instance.stop()

    done = case.here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (12, "contact-lost")
    assert "in 3 attempts" in done.outcome["errors"][0]["message"]


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


# -- sizes


COLLECTOR_KB, FOLLOWER_KB = 100_000, 30_000
"""Interpreter, libraries and windows; a file's or a line's size is not in it."""


def peak_kb(pid: int) -> int:
    """The most memory that process *pid* ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.usefixtures("cold")
def test_a_line_of_fifty_megabytes_arrives_and_costs_no_memory(case: Case) -> None:
    child = case.watch()
    with case.log.open("ab") as log, case.record.open("ab") as record:
        for _ in range(50):
            for file in (log, record):
                file.write(b"x" * 1_000_000)
                file.flush()
    case.await_all()
    peaks_kb = [peak_kb(pid) for pid in (child.pid, *follower_pids(case))]
    case.written(f"end:\n{END}", seed=2)

    case.assert_complete(case.here.finish(child))
    assert peaks_kb[0] < COLLECTOR_KB
    assert peaks_kb[1] < FOLLOWER_KB


@pytest.mark.soak
@pytest.mark.usefixtures("cold")
def test_a_backlog_of_a_gigabyte_arrives_and_costs_no_memory_on_either_side(case: Case) -> None:
    case.written("bytes:1000000000", within_s=120)
    child = case.collect(timeout=LONG_S)
    [follower] = eventually(lambda: follower_pids(case))
    case.await_all(within_s=200)
    peaks_kb = peak_kb(child.pid), peak_kb(follower)
    case.written(f"end:{END}", seed=2)

    case.assert_complete(case.here.finish(child, 60))
    print(f"1 GB: collector {peaks_kb[0]} kB, follower {peaks_kb[1]} kB")
    assert peaks_kb[0] < COLLECTOR_KB
    assert peaks_kb[1] < FOLLOWER_KB


# -- a hostile instance


@pytest.mark.usefixtures("cold")
def test_an_instance_that_prints_for_ever_ends_by_the_timeout_and_costs_no_memory(case: Case) -> None:
    (case.here.instance.home / ".bashrc").write_text("exec cat /dev/zero\n")
    child = case.collect(timeout="5")
    peaks_kb = []
    while child.poll() is None:
        with suppress(OSError, AssertionError):  # it ended while we looked
            peaks_kb.append(peak_kb(child.pid))
        time.sleep(0.05)

    done = case.here.finish(child)

    assert done.code == 124, done.stdout
    assert done.named("connection_lost")[0]["cause"] == "garbled: no hello, only other output"
    assert max(peaks_kb) < COLLECTOR_KB
    assert case.mirror.read_bytes() == b""


@pytest.mark.usefixtures("cold")
def test_an_instance_that_floods_stderr_costs_no_memory(case: Case) -> None:
    (case.here.instance.home / ".bashrc").write_text("head -c 60000000 /dev/zero >&2\n")
    child = case.watch()
    peak = peak_kb(child.pid)
    case.written(f"end:{END}", seed=2)

    case.assert_complete(case.here.finish(child))
    assert peak < COLLECTOR_KB


@pytest.fixture
def instance_environment(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """One instance has no python3, and a `head` that never ends."""
    if "endless_head" not in request.fixturenames:
        return {}
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "stat", "tail", "wc", "ls"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "head").write_text("#!/bin/sh\nexec /bin/cat /dev/zero\n")
    (tools / "head").chmod(0o755)
    return {"PATH": str(tools)}


@pytest.fixture
def endless_head(here: Here) -> Here:
    return here


@pytest.mark.usefixtures("cold")
def test_an_answer_that_is_longer_than_was_asked_for_is_cut_and_costs_no_memory(
    case: Case, endless_head: Here
) -> None:
    case.written("lines:3")
    child = case.collect(timeout="60")
    eventually(lambda: case.here.said(child).count('"connection_lost"') >= 2)
    peak = peak_kb(child.pid)
    kill(child)

    assert peak < COLLECTOR_KB
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
