"""A run that nobody here watches: `status` and `logs` ask its instance, and where it is silent say how old they are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from harness.file_server import FileServer
from provision_collector.instance import Instance
from provision_collector.run import registry
from provision_collector.run.news import ASK_WITHIN_S, news_of

from .conftest import Here, eventually
from .test_survival import big_profile, landed, lift

pytestmark = pytest.mark.timeout(240)


def test_a_detached_run_is_shown_as_its_instance_has_it_and_its_log_goes_on_to_the_end(
    here: Here, files: FileServer
) -> None:
    profile = here.profile(big_profile(files))
    where = ["--workspace", str(here.instance.workspace)]
    assert (
        here.run("up", *here.connection(), *where, "--profile", profile, "--run-id", "a", "--detach").code
        == 0
    )
    eventually(lambda: landed(files), within_s=60)

    row = eventually(lambda: _asked(here), within_s=60)

    assert (row["state"], row["verdict"], row["is_alive"]) == ("running", None, True)
    [download] = row["downloads"].values()
    assert download["bytes"] > 0
    assert "0/1" in here.run("status").stdout
    so_far = eventually(lambda: here.run("logs", "a").stdout, within_s=60)
    assert "Preflight" in so_far
    follower = here.spawn("logs", "-f", "a")
    eventually(lambda: "Preflight" in here.said(follower), within_s=60)
    lift()
    followed = here.finish(follower, within_s=60)

    assert followed.code == 0
    assert followed.stdout == here.remote("a", "core.log").read_text()
    assert here.run("status", "a", "--json").lines[0]["verdict"] == "complete"


def _asked(here: Here) -> dict[str, object] | None:
    """The row of the run, once a busy machine has let its instance answer in time."""
    [row] = here.run("status", "a", "--json").lines
    return row if row["asked"] else None


def test_an_instance_that_is_gone_leaves_the_age_of_what_is_known_and_what_to_type(
    here: Here, files: FileServer
) -> None:
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "a")
    eventually(lambda: landed(files), within_s=60)
    child.kill()
    child.wait()
    here.instance.stop()

    shown = here.run("status")
    row = here.run("status", "a", "--json").lines[0]
    log = here.run("logs", "a")
    stopped = here.run("stop", "a", "--boot-grace", "100ms", "--json")
    lift()

    assert "`a` is as it was " in shown.stderr and " ago: " in shown.stderr
    assert "`provision attach a`" in shown.stderr
    assert row["asked"] is False and row["age_s"] >= 0 and row["not_asked_because"]
    assert log.code == 0 and "Preflight" in log.stdout
    assert "old" in log.stderr and "`provision attach a`" in log.stderr
    assert (stopped.code, stopped.outcome["next"]) == (10, "fix_address")


@pytest.mark.usefixtures("own_state")
async def test_many_silent_instances_are_asked_at_once_and_for_no_longer_than_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        records = [
            registry.RunRecord(
                run=f"r{number}",
                stem=str(tmp_path / f"provision_r{number}_1"),
                started_unix=1,
                instance=registry.record_of(
                    Instance.parse(f"root@127.0.0.1:{port}", instance_id=str(number))
                ),
            )
            for number in range(40)
        ]
        began = time.monotonic()
        news = await asyncio.wait_for(news_of(records), 3 * ASK_WITHIN_S)

    assert time.monotonic() - began < 2 * ASK_WITHIN_S, "one after the other would take two minutes"
    assert {each.why_not for each in news} == {"it did not answer within 3 s"}


def test_a_run_that_has_ended_is_stopped_already_and_gives_its_verdict(here: Here, files: FileServer) -> None:
    profile = here.profile("version: 1\nname: p\nchecks: [{name: x, path: nothing, level: critical}]\n")
    ended = here.up(profile, "--run-id", "a").outcome["verdict"]
    there = [*here.connection(), "--workspace", str(here.instance.workspace), "--json"]

    known = here.run("stop", "a", "--json")
    asked = here.run("stop", "a", *there)
    unknown = here.run("stop", "b", *there)

    assert ended == "failed"
    for done in (known, asked):
        assert (done.code, done.outcome["verdict"], done.outcome["stopped"]) == (0, "failed", False), (
            done.stderr
        )
    assert (unknown.code, unknown.outcome["verdict"], json.loads(unknown.stdout)["exit_code"]) == (
        2,
        "usage",
        2,
    )


def test_looking_at_the_log_of_a_run_whose_agent_died_starts_nothing(here: Here, files: FileServer) -> None:
    profile = here.profile(big_profile(files))
    where = ["--workspace", str(here.instance.workspace)]
    here.run("up", *here.connection(), *where, "--profile", profile, "--run-id", "a", "--detach")
    eventually(lambda: landed(files), within_s=60)
    holder = here.lock()
    os.kill(holder["keeper"]["pid"], signal.SIGKILL)
    os.kill(holder["agent"]["pid"], signal.SIGKILL)

    shown = here.run("logs", "a")
    followed = here.run("logs", "-f", "a", within_s=60)

    assert shown.code == 0 and "Preflight" in shown.stdout
    assert followed.code == 14 and "`provision attach a` starts them again" in followed.stderr
    assert [event["event"] for event in here.agent_events("a")].count("run_started") == 1
    lift()
    assert here.run("attach", "a", "--json", within_s=60).outcome["verdict"] == "complete"
