"""A run that the agent of the release before works on, and the collector of today: it is watched, joined, stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import older
from harness.file_server import FileServer
from provision_collector.profile import compile_plan, load_profile

from .conftest import Child, Finished, Here, eventually
from .server import Server, assert_whole
from .test_survival import big_profile, landed, lift

SEEDS = [1, 2, 3, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 21))]
LONG_S = 60.0


class Case:
    """One run of an old agent, in the middle of its one big file."""

    def __init__(self, here: Here, files: FileServer) -> None:
        self.here = here
        self.files = files
        self.profile = here.profile(big_profile(files))
        self.plan = compile_plan(load_profile(self.profile), workspace=str(here.instance.workspace))
        self.agent = older.begin(here.instance, self.plan, "old")
        eventually(lambda: landed(files))

    def attach(self) -> Child:
        return self.here.spawn("attach", "old", *self.here.connection(), "--json")

    def up(self) -> Child:
        return self.here.spawn_up(self.profile)

    def watched(self, child: Child) -> None:
        """Wait until *child* has got what was written so far."""
        eventually(lambda: "download_started" in self.here.said(child), LONG_S)

    def kill(self, *roles: str) -> None:
        for role in roles:
            os.kill(self.here.lock()[role]["pid"], signal.SIGKILL)

    def assert_complete(self, done: Finished) -> None:
        assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout + done.stderr
        assert (done.outcome["run"], done.outcome["gaps"]) == ("old", [])
        assert "Traceback" not in done.stderr
        self.here.assert_mirrored(done.outcome)


@pytest.fixture
def case(here: Here, files: FileServer) -> Iterator[Case]:
    yield Case(here, files)
    lift()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_breaks_under_way_its_verdict_comes_with_every_byte(case: Case, seed: int) -> None:
    rng = random.Random(seed)
    here = case.here
    child = rng.choice((case.attach, case.up))()
    case.watched(child)
    trouble = (("watcher",), ("agent",), ("keeper", "agent"), ())[seed % 4]
    if trouble == ("watcher",):
        for _ in range(rng.randint(1, 2)):
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            child = rng.choice((case.attach, case.up))()
            case.watched(child)
    else:
        case.kill(*trouble)
    if trouble == ("agent",):  # its keeper starts it again, from its own file
        keeper = here.lock()["keeper"]["pid"]
        assert str(case.agent).encode() in Path(f"/proc/{keeper}/cmdline").read_bytes()
    lift()

    done = here.finish(child, LONG_S)

    case.assert_complete(done)
    first = here.agent_events("old")[0]
    assert (first["event"], first["format"]) == ("run_started", 1)


@pytest.mark.timeout(240)
def test_it_is_listed_and_ended_and_its_watcher_learns_it(case: Case) -> None:
    here = case.here
    child = case.attach()
    case.watched(child)

    (row,) = here.run("status", *here.connection(), "--json", within_s=LONG_S).lines
    assert (row["run"], row["state"], row["is_alive"]) == ("old", "running", True)
    assert row["labels"] == {"by": "format 1"}

    stopped = here.run("stop", "old", *here.connection(), "--json", within_s=LONG_S)
    assert (stopped.code, stopped.outcome["stopped"], stopped.outcome["verdict"]) == (0, True, "cancelled")
    done = here.finish(child, LONG_S)
    assert (done.code, done.outcome["verdict"]) == (130, "cancelled"), done.stdout + done.stderr
    here.assert_mirrored(done.outcome)

    (row,) = here.run("status", *here.connection(), "--json", within_s=LONG_S).lines
    assert (row["verdict"], row["is_alive"]) == ("cancelled", False)
    ended = here.run("attach", "old", "--json", within_s=LONG_S)
    assert (ended.code, ended.outcome["verdict"]) == (130, "cancelled")


@pytest.mark.timeout(240)
def test_its_log_is_followed_to_its_end(case: Case) -> None:
    child = case.here.spawn("logs", "old", *case.here.connection(), "--follow")
    eventually(lambda: "big.safetensors" in case.here.said(child), LONG_S)
    lift()

    done = case.here.finish(child, LONG_S)

    assert done.stdout == case.here.remote("old", "core.log").read_text()
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(240)
def test_the_profile_that_it_was_started_with_joins_it_and_another_is_refused_for_what_differs(
    case: Case,
) -> None:
    here = case.here
    text = Path(case.profile).read_text()
    other = here.profile(text.replace("run: 120s", "run: 121s"), "other.yaml")

    refused = here.up(other, within_s=LONG_S)
    child = case.up()
    case.watched(child)
    lift()

    assert refused.outcome["verdict"] == "refused"
    told = refused.outcome["errors"][0]["message"].splitlines()[1:]
    assert [line.strip() for line in told] == ["limits.run_s: 120.0 -> 121.0"]
    case.assert_complete(here.finish(child, LONG_S))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("killed", [(), ("keeper", "agent")], ids=["alive", "dead"])
def test_a_server_that_is_started_again_over_it_follows_it_to_its_end(
    case: Case, tmp_path: Path, killed: tuple[str, ...]
) -> None:
    instance = case.here.instance
    order = {
        "host": instance.host,
        "port": instance.port,
        "user": instance.user,
        "key": str(instance.key_path),
        "workspace": str(instance.workspace),
        "profile_yaml": Path(case.profile).read_text(),
        "run_id": "old",
    }
    server = Server(tmp_path / "server")
    try:
        server.start()
        server.post("/api/runs", order)
        eventually(lambda: server.get("/api/runs/old")["downloads"], LONG_S)
        server.kill()
        with sqlite3.connect(next(tmp_path.rglob("server.sqlite"))) as database:  # as its own server wrote it
            plan = json.dumps(older.as_in_format_1(case.plan))
            database.execute("UPDATE runs SET plan = ? WHERE run = 'old'", [plan])
        database.close()
        case.kill(*killed)
        server.start()
        lift()

        outcome = server.outcome("old", LONG_S)

        assert (outcome["verdict"], outcome["gaps"]) == ("complete", []), outcome
        seen = list(server.events("old"))
        assert_whole(seen)
        assert next(event for _, event in seen if event.get("from") != "collector")["format"] == 1
        core = server.ask("GET", "/api/runs/old/log")[2]
        assert core == case.here.remote("old", "core.log").read_bytes()
        assert "Traceback" not in server.stderr.read_text()
    finally:
        server.close()
