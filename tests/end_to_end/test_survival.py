"""What a run survives: killed agents, keepers and collectors, cut and silent connections, two watchers at once."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from harness.content import Content
from harness.file_server import Fault, FileServer
from harness.tcp_proxy import TcpProxy

from .conftest import Here, eventually
from .test_up import profile_of

BIG = 24 << 20
HALF = 12 << 20
SLOW = Fault()
"""What holds the second half of the big file back; `lift` ends it, for transfers under way too."""
STEADY_BYTES_PER_S, HELD_BYTES_PER_S = 6_000_000, 100_000


def big_profile(server: FileServer) -> str:
    """One big file that `landed` holds in the middle, so that there is a middle to break."""
    content = Content.safetensors(BIG, seed=7)
    SLOW.bytes_per_s = STEADY_BYTES_PER_S
    server.add("/big.safetensors", content, SLOW)
    return (
        "version: 1\nname: big\nlimits: {run: 120s, connections: 1, stall: {below: 1KiB, for: 20s}}\n"
        f"downloads:\n  - {{url: '{server.url('/big.safetensors')}', path: models/big.safetensors, "
        f"size: {BIG}, sha256: {content.sha256}, level: critical}}\n"
    )


def lift() -> None:
    SLOW.bytes_per_s = None


def landed(server: FileServer) -> bool:
    """True when half of the big file is there; from then on the rest is held back."""
    if server.bytes_sent("/big.safetensors") <= HALF:
        return False
    SLOW.bytes_per_s = HELD_BYTES_PER_S
    return True


def test_an_agent_killed_in_mid_download_is_started_again_and_resumes(here: Here, files: FileServer) -> None:
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "kill")
    eventually(lambda: landed(files))
    lift()
    os.kill(here.lock()["agent"]["pid"], signal.SIGKILL)

    done = here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout + done.stderr
    assert files.bytes_sent("/big.safetensors") < BIG + (8 << 20), "what had landed was not fetched again"
    started = [event for event in here.agent_events("kill") if event["event"] == "run_started"]
    assert [event["resumed"] for event in started] == [False, True]
    here.assert_mirrored(done.outcome)


def test_keeper_and_agent_killed_are_started_again_from_here(here: Here, files: FileServer) -> None:
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "kill")
    eventually(lambda: landed(files))
    lift()
    holder = here.lock()
    os.kill(holder["keeper"]["pid"], signal.SIGKILL)
    os.kill(holder["agent"]["pid"], signal.SIGKILL)

    done = here.finish(child)

    assert (done.code, done.outcome["run"]) == (0, "kill"), done.stdout + done.stderr
    assert len(done.named("agent_restarted")) == 1
    assert files.bytes_sent("/big.safetensors") < BIG + (8 << 20)
    here.assert_mirrored(done.outcome)


def test_an_agent_whose_keeper_was_killed_ends_its_run(here: Here, files: FileServer) -> None:
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "kill")
    eventually(lambda: landed(files))
    os.kill(here.lock()["keeper"]["pid"], signal.SIGKILL)
    lift()

    done = here.finish(child, within_s=60)

    assert done.code == 0, done.stdout + done.stderr
    assert not done.named("agent_restarted")
    assert here.lock().get("released"), "the lock is given back"


def test_a_collector_killed_and_started_again_goes_on_with_the_same_mirror(
    here: Here, files: FileServer
) -> None:
    profile = here.profile(big_profile(files))
    child = here.spawn_up(profile, "--run-id", "kill")
    eventually(lambda: landed(files))
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()

    again = here.spawn_up(profile)
    eventually(lambda: here.connections("kill") == 2)
    lift()
    done = here.finish(again)

    assert (done.code, done.outcome["run"]) == (0, "kill"), done.stdout + done.stderr
    assert done.outcome["logs"]["core"].count("provision_kill_") == 1
    assert len(list(Path(done.outcome["logs"]["core"]).parent.glob("provision_kill_*.events.jsonl"))) == 1
    here.assert_mirrored(done.outcome)


def test_a_cut_connection_is_taken_up_where_it_broke(here: Here, files: FileServer) -> None:
    with TcpProxy((here.instance.host, here.instance.port)) as proxy:
        child = here.spawn_up(
            here.profile(big_profile(files)), "--run-id", "cut", connection=here.connection(port=proxy.port)
        )
        eventually(lambda: landed(files))
        for times in (2, 3, 4):
            proxy.cut()
            eventually(lambda times=times: here.connections("cut") == times)
        lift()
        done = here.finish(child, within_s=60)

    assert done.code == 0, done.stdout + done.stderr
    assert done.outcome["reconnects"] >= 3
    assert done.named("connection_lost")
    here.assert_mirrored(done.outcome)


def test_a_silent_connection_is_noticed_and_replaced(here: Here, files: FileServer) -> None:
    with TcpProxy((here.instance.host, here.instance.port)) as proxy:
        child = here.spawn_up(
            here.profile(big_profile(files)), "--run-id", "mute", connection=here.connection(port=proxy.port)
        )
        eventually(lambda: landed(files))
        lift()
        before = proxy.connections
        proxy.stall()
        eventually(lambda: proxy.connections > before, within_s=60.0)  # within three heartbeats
        proxy.flow()
        done = here.finish(child, within_s=60)

    assert done.code == 0, done.stdout + done.stderr
    assert done.outcome["reconnects"] >= 1
    here.assert_mirrored(done.outcome)


def test_two_watchers_of_one_plan_share_one_agent_and_both_see_the_end(here: Here, files: FileServer) -> None:
    profile = here.profile(big_profile(files))
    first = here.spawn_up(profile)
    eventually(lambda: landed(files))
    second = here.spawn_up(profile)
    eventually(lambda: '"run_started"' in here.said(second))
    lift()
    both = [here.finish(child, within_s=60) for child in (first, second)]

    assert [done.code for done in both] == [0, 0], both
    assert both[0].outcome["run"] == both[1].outcome["run"]
    started = [
        event for event in here.agent_events(both[0].outcome["run"]) if event["event"] == "run_started"
    ]
    assert len(started) == 1
    here.assert_mirrored(both[0].outcome)


def test_the_second_watcher_takes_over_when_the_first_is_killed(here: Here, files: FileServer) -> None:
    profile = here.profile(big_profile(files))
    first = here.spawn_up(profile, "--run-id", "shared")
    eventually(lambda: landed(files))
    second = here.spawn("attach", "shared", "--json")
    eventually(lambda: '"run_started"' in here.said(second))
    os.killpg(first.pid, signal.SIGKILL)
    lift()

    done = here.finish(second, within_s=60)

    assert done.code == 0, done.stdout + done.stderr
    here.assert_mirrored(done.outcome)


def test_another_plan_is_refused_with_the_differences_until_replace(here: Here, files: FileServer) -> None:
    big = here.profile(big_profile(files), "big.yaml")
    other = here.profile(profile_of(files), "other.yaml")
    first = here.spawn_up(big, "--run-id", "one")
    eventually(lambda: landed(files))

    refused = here.up(other, "--run-id", "two")

    assert (refused.code, refused.outcome["verdict"]) == (4, "refused")
    assert 'name: "big" -> "test"' in refused.outcome["errors"][0]["message"]
    replaced = here.up(other, "--run-id", "two", "--replace")
    assert replaced.code == 0, replaced.stdout + replaced.stderr
    assert here.finish(first).outcome["verdict"] == "cancelled"
    here.assert_mirrored(replaced.outcome)


def test_a_run_that_died_without_a_verdict_goes_on_as_the_same_run(here: Here, files: FileServer) -> None:
    profile = here.profile(big_profile(files))
    child = here.spawn_up(profile, "--run-id", "dead")
    eventually(lambda: landed(files))
    os.killpg(child.pid, signal.SIGKILL)
    holder = here.lock()
    os.kill(holder["keeper"]["pid"], signal.SIGKILL)
    os.kill(holder["agent"]["pid"], signal.SIGKILL)
    lift()

    done = here.up(profile, "--run-id", "new")

    assert (done.code, done.outcome["run"]) == (0, "dead"), done.stdout + done.stderr
    here.assert_mirrored(done.outcome)


def test_a_link_that_breaks_while_the_agent_is_sent_is_tried_again(here: Here, files: FileServer) -> None:
    with TcpProxy((here.instance.host, here.instance.port)) as proxy:
        proxy.cut_after = 5_000  # in the midst of the key exchange, or of the order
        child = here.spawn_up(here.profile(profile_of(files)), connection=here.connection(port=proxy.port))
        eventually(lambda: proxy.connections >= 2)
        proxy.cut_after = None
        done = here.finish(child)

    assert done.code == 0, done.stdout + done.stderr
    here.assert_mirrored(done.outcome)


def test_a_run_whose_folder_is_deleted_ends_on_both_sides(here: Here, files: FileServer) -> None:
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "gone")
    eventually(lambda: landed(files))
    holder = here.lock()
    shutil.rmtree(here.instance.workspace / ".provision")

    done = here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (14, "agent-lost"), done.stdout + done.stderr
    assert "was deleted" in done.outcome["errors"][-1]["message"]
    eventually(lambda: not any(is_running(holder[role]["pid"]) for role in ("agent", "keeper")))
    lift()
    assert here.up(here.profile(big_profile(files))).outcome["verdict"] == "complete"


def test_an_agent_file_that_is_deleted_is_put_back(here: Here, files: FileServer) -> None:
    with TcpProxy((here.instance.host, here.instance.port)) as proxy:
        child = here.spawn_up(
            here.profile(big_profile(files)),
            "--run-id",
            "put",
            connection=here.connection(port=proxy.port),
        )
        eventually(lambda: landed(files))
        shutil.rmtree(here.instance.workspace / ".provision/agent")
        proxy.cut()
        eventually(lambda: list((here.instance.workspace / ".provision/agent").glob("*.pyz")))
        lift()
        done = here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout + done.stderr
    here.assert_mirrored(done.outcome)


def exchange_agent(here: Here) -> Path:
    """Put a program of somebody else in the agent's place; the file that is there when it ran."""
    flag = here.folder / "somebody-else-ran"
    for archive in (here.instance.workspace / ".provision/agent").glob("*.pyz"):
        other = archive.with_name("other")
        other.write_text(f"open({str(flag)!r}, 'w')\n")
        other.replace(archive)
    return flag


def test_an_agent_file_that_somebody_exchanged_is_never_run_and_is_put_right(
    here: Here, files: FileServer
) -> None:
    with TcpProxy((here.instance.host, here.instance.port)) as proxy:
        child = here.spawn_up(
            here.profile(big_profile(files)),
            *("--run-id", "exchanged"),
            connection=here.connection(port=proxy.port),
        )
        eventually(lambda: landed(files))
        flag = exchange_agent(here)
        proxy.cut()
        lift()
        done = here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout + done.stderr
    assert not flag.exists()
    here.assert_mirrored(done.outcome)


def test_a_keeper_whose_agent_was_exchanged_says_so_and_starts_nothing(here: Here, files: FileServer) -> None:
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "kept")
    eventually(lambda: landed(files))
    flag = exchange_agent(here)
    os.kill(here.lock()["agent"]["pid"], signal.SIGKILL)
    done = here.finish(child)
    lift()

    assert (done.code, done.outcome["verdict"]) == (1, "failed"), done.stdout + done.stderr
    error = done.outcome["errors"][-1]
    assert error["class"] == "agent_changed"
    assert "is not what was sent: somebody changed it" in error["message"]
    assert "give a `--workspace` below a folder that only you can write" in error["hint"]
    assert done.outcome["next"] == "replace_instance"
    assert not flag.exists()


def test_a_gone_check_ends_the_watching_of_an_instance_that_does_not_exist_any_more(
    here: Here, files: FileServer
) -> None:
    check = here.folder / "check"
    check.write_text(f'#!/bin/sh\necho "$PROVISION_RUN $PROVISION_LABEL_POOL" >> {here.folder}/asked\n')
    check.chmod(0o755)
    with TcpProxy((here.instance.host, here.instance.port)) as proxy:
        child = here.spawn_up(
            here.profile(big_profile(files)),
            *("--run-id", "left", "--label", "pool=a", "--gone-check", str(check)),
            connection=here.connection(port=proxy.port),
        )
        eventually(lambda: landed(files))
        proxy.refuse()
        proxy.cut()
        done = here.finish(child)
    lift()

    assert (done.code, done.outcome["verdict"], done.outcome["next"]) == (
        15,
        "instance-gone",
        "replace_instance",
    )
    assert (here.folder / "asked").read_text() == "left a\n"
    assert {event["labels"]["pool"] for event in done.lines} == {"a"}


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
