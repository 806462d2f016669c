"""`provision serve` as a warm pool uses it: real server process, real HTTP, real instances behind sshd."""

from __future__ import annotations

import json
import os
import random
import signal
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness.file_server import Fault, FileServer
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import eventually
from .server import Follower, Server, assert_whole
from .test_up import SIZE, free_port, profile_of

SLOW = 100_000


def order(instance: EmbeddedInstance, profile: str, **more: Any) -> dict[str, Any]:
    """The body of a request for a run."""
    return {
        "host": instance.host,
        "port": instance.port,
        "user": instance.user,
        "key": str(instance.key_path),
        "workspace": str(instance.workspace),
        "boot_grace": "10s",
        "profile_yaml": profile,
        **more,
    }


def slow(files: FileServer) -> Fault:
    """A profile's required file comes slowly, until the fault is lifted."""
    fault = Fault(slow_after=1 << 16, bytes_per_s=SLOW)
    files.set_faults("/required.safetensors", fault)
    return fault


def test_a_run_is_answered_at_once_told_as_it_goes_and_ends_with_its_outcome(
    server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    body = order(instance, profile_of(files), run_id="one", labels={"pool": "a"}, instance_id="i-7")
    answer = server.post("/api/runs", body)
    first = server.get(answer["status"])
    follower = Follower(server, "one")
    outcome = server.outcome("one")
    follower.assert_whole()
    told = follower.seen[-1][1]
    status = server.get("/api/runs/one")

    assert answer == {
        "run": "one",
        "status": "/api/runs/one",
        "events": "/api/runs/one/events",
        "log": "/api/runs/one/log",
    }
    assert first["last_event_id"] >= 1, "the first event is there before anything can block"
    assert (outcome["verdict"], outcome["labels"]) == ("complete", {"pool": "a"})
    assert {key: told[key] for key in outcome} == outcome, "polling and the stream tell the same story"
    assert (status["state"], status["last_event_id"]) == ("complete", len(follower.seen))
    assert all(event["labels"] == {"pool": "a"} for _, event in follower.seen)
    core = instance.workspace / ".provision/runs/one/core.log"
    assert server.ask("GET", "/api/runs/one/log")[2] == core.read_bytes()
    assert server.ask("GET", "/api/runs/one/log?from=100&follow=1")[2] == core.read_bytes()[100:]
    assert server.ask("GET", "/api/runs/one/log?file=errors")[2] == b""
    assert server.ask("GET", "/api/runs/one/events", headers={"Last-Event-ID": "100000"})[0] == 204
    hosts = server.get("/api/hosts")
    described = server.get("/openapi.json")
    runs = server.get("/api/runs")
    for shape, said in [
        ("Begun", answer),
        ("Status", first),
        ("Status", status),
        ("Runs", runs),
        ("Hosts", hosts),
    ]:
        schema = {"$ref": f"#/components/schemas/{shape}", "components": described["components"]}
        jsonschema.validate(said, schema)
    card = hosts["hosts"][0]
    assert (card["instance"], card["runs"], card["verdicts"]) == ("i-7", 1, {"complete": 1})
    assert card["sources"]["127.0.0.1"]["bytes"] == 3 * SIZE
    metrics = server.ask("GET", "/metrics")[2].decode()
    assert runs["runs"][0]["verdict"] == "complete"
    assert 'provision_runs_ended_total{verdict="complete"} 1.0' in metrics
    assert 'provision_runs_ended_total{verdict="failed"} 0.0' in metrics


def test_the_same_id_means_the_same_run_and_another_body_is_refused(
    server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    body = order(instance, profile_of(files), run_id="one")
    server.post("/api/runs", body)

    assert server.post("/api/runs", body, status=200)["run"] == "one"
    refused = server.post("/api/runs", {**body, "labels": {"x": "y"}}, status=409)
    assert refused["error"]["class"] == "conflict"
    assert server.outcome("one")["verdict"] == "complete"
    assert server.post("/api/runs", body, status=200)["run"] == "one"
    assert len(server.get("/api/runs")["runs"]) == 1


def test_runs_of_one_source_host_come_in_waves_and_who_waits_can_be_released(
    tmp_path: Path, instance: EmbeddedInstance, second: EmbeddedInstance, files: FileServer
) -> None:
    text, held = profile_of(files), slow(files)
    server = Server(tmp_path / "waves", "--per-source-host", "1")
    server.start()
    try:
        server.post("/api/runs", order(instance, text, run_id="one"))
        eventually(lambda: server.get("/api/runs/one")["state"] == "usable")
        for run in ("two", "three"):
            server.post("/api/runs", order(second, text, run_id=run))
            waits = next(event for _, event in server.events(run) if event["event"] == "warning")
            assert "fewer runs fetch from 127.0.0.1" in waits["message"]
        server.post("/api/runs/two/release")
        assert server.outcome("two")["verdict"] == "instance-gone"
        assert server.get("/api/runs/three")["state"] == "accepted"
        held.bytes_per_s = None
        assert server.outcome("one")["verdict"] == "complete"
        assert server.outcome("three")["verdict"] == "complete"
    finally:
        server.close()


def test_a_run_whose_upload_is_gone_before_its_turn_holds_up_nobody(
    tmp_path: Path, instance: EmbeddedInstance, second: EmbeddedInstance, files: FileServer
) -> None:
    text, held = profile_of(files), slow(files)
    lora = tmp_path / "shared" / "a.bin"
    lora.parent.mkdir()
    lora.write_bytes(b"lora")
    server = Server(tmp_path / "waves", "--per-source-host", "1", "--uploads", str(lora.parent))
    server.start()
    try:
        server.post("/api/runs", order(instance, text, run_id="one"))
        eventually(lambda: server.get("/api/runs/one")["state"] == "usable")
        sending = f"{text}\nuploads: [{{from: a.bin, path: a.bin}}]\n"
        for run, wanted in (("two", sending), ("three", text)):
            server.post("/api/runs", order(second, wanted, run_id=run))
            next(event for _, event in server.events(run) if event["event"] == "warning")
        lora.unlink()
        held.bytes_per_s = None
        assert server.outcome("two")["exit_code"] != 0
        assert server.outcome("three")["verdict"] == "complete"
    finally:
        server.close()


def test_stop_ends_the_run_as_cancelled(
    server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    text = profile_of(files)
    slow(files)
    server.post("/api/runs", order(instance, text, run_id="one"))
    eventually(lambda: server.get("/api/runs/one")["state"] == "usable")
    assert server.get("/api/runs?state=usable")["runs"][0]["run"] == "one"

    server.post("/api/runs/one/stop")

    assert server.outcome("one")["verdict"] == "cancelled"
    assert_whole(list(server.events("one")))
    assert server.get("/api/runs?state=cancelled")["runs"][0]["run"] == "one"


def test_release_ends_the_run_here_and_touches_nothing_there(
    server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    text = profile_of(files)
    fault = slow(files)
    server.post("/api/runs", order(instance, text, run_id="one"))
    eventually(lambda: server.get("/api/runs/one")["state"] == "usable")

    server.post("/api/runs/one/release")

    outcome = server.outcome("one")
    assert (outcome["verdict"], outcome["exit_code"], outcome["next"]) == (
        "instance-gone",
        15,
        "replace_instance",
    )
    fault.bytes_per_s = None
    status = instance.workspace / ".provision/runs/one/status.json"
    eventually(lambda: json.loads(status.read_text())["verdict"] == "complete")


def test_an_unreachable_instance_is_told_and_the_gone_check_ends_the_run(
    tmp_path: Path, instance: EmbeddedInstance, files: FileServer
) -> None:
    check = tmp_path / "check.sh"
    check.write_text('#!/bin/sh\n[ "$PROVISION_INSTANCE_ID" = i-9 ] && [ "$PROVISION_LABEL_POOL" = a ]\n')
    check.chmod(0o755)
    server = Server(tmp_path / "server", "--gone-check", str(check))
    server.start()
    try:
        where = order(instance, profile_of(files), port=free_port(), boot_grace="60s", labels={"pool": "a"})
        server.post("/api/runs", {**where, "run_id": "gone", "instance_id": "i-9"})
        server.post("/api/runs", {**where, "run_id": "off", "boot_grace": "1s"})
        outcome, other = server.outcome("gone"), server.outcome("off")
    finally:
        server.close()

    assert (outcome["verdict"], outcome["next"]) == ("instance-gone", "replace_instance")
    assert (other["verdict"], other["errors"][0]["class"]) == ("unreachable", "refused")


def test_runs_outlive_a_killed_server_and_their_streams_go_on_without_gap_or_double(
    tmp_path: Path, files: FileServer
) -> None:
    server = Server(tmp_path / "server")
    server.start()
    text = profile_of(files)
    fault = slow(files)
    instances = [EmbeddedInstance(tmp_path / f"instance{number}", server="sshd") for number in range(3)]
    try:
        for number, instance in enumerate(instances):
            instance.start()
            server.post("/api/runs", order(instance, text, run_id=f"run{number}"))
        followers = [Follower(server, f"run{number}") for number in range(3)]
        server.kill()
        server.start()
        eventually(lambda: all(server.get(f"/api/runs/run{n}")["state"] == "usable" for n in range(3)))
        server.kill()
        fault.bytes_per_s = None
        eventually(lambda: _verdict(instances[0], "run0") == "complete")  # ends while no server is there
        server.start()
        verdicts = [server.outcome(f"run{number}")["verdict"] for number in range(3)]
        for follower in followers:
            follower.assert_whole()
        for number, instance in enumerate(instances):
            core = instance.workspace / f".provision/runs/run{number}/core.log"
            assert server.ask("GET", f"/api/runs/run{number}/log")[2] == core.read_bytes()
    finally:
        server.close()
        for instance in instances:
            instance.switch_off()

    assert verdicts == ["complete"] * 3


ENDS = {"complete": "", "incomplete": "required", "failed": "critical"}
"""Verdicts, and the level of the check that leads to each."""


def run_through_kills(
    folder: Path, instance: EmbeddedInstance, files: FileServer, *, runs: int, seed: int, within_s: float = 60
) -> None:
    """*runs* runs in workspaces of their own, while the server is killed at random moments again and again.

    What came of them is judged by what the agents wrote on the instance.
    """
    chance = random.Random(seed)
    server = Server(folder)
    server.start()
    texts = {
        verdict: profile_of(files, extra=f"  - {{name: Never, path: never, level: {level}}}" if level else "")
        for verdict, level in ENDS.items()
    }
    fault = slow(files)
    verdicts = [chance.choice(list(ENDS)) for _ in range(runs)]
    followers = []
    try:
        for number, verdict in enumerate(verdicts):
            where = {"run_id": f"run{number}", "workspace": f"~/work{number}", "boot_grace": "60s"}
            body = order(instance, texts[verdict], **where)
            while True:
                with suppress(OSError, HTTPException):
                    assert server.ask("POST", "/api/runs", body)[0] in (200, 202)
                    break
            followers.append(Follower(server, f"run{number}"))
            if chance.random() < 0.3:
                server.kill()
                server.start()
        for _ in range(max(runs // 5, 2)):
            await_events(followers, chance.randrange(1, 10 * runs), within_s)
            server.kill()
            server.start()
        fault.bytes_per_s = None
        for number, follower in enumerate(followers):
            outcome = server.outcome(f"run{number}", within_s)
            follower.assert_whole(within_s)
            assert outcome["verdict"] == verdicts[number], outcome["errors"]
            assert_told_as_written(server, follower, instance.home / f"work{number}")
    finally:
        server.close()


def await_events(followers: list[Follower], more: int, within_s: float) -> None:
    """Wait until the followers have seen so many events more, or every outcome."""
    wanted = more + sum(len(follower.seen) for follower in followers)
    eventually(
        lambda: (
            sum(len(follower.seen) for follower in followers) >= wanted
            or not any(follower.is_alive() for follower in followers)
        ),
        within_s,
    )


def assert_told_as_written(server: Server, follower: Follower, workspace: Path) -> None:
    """What the server told of a run is what its agent wrote in *workspace*: every event, the verdict, every byte of the log."""
    written = workspace / ".provision/runs" / follower.run_id
    events = [json.loads(line) for line in (written / "events.jsonl").read_text().splitlines()]
    told = [event for _, event in follower.seen if event.get("from") != "collector"]
    assert told == events
    assert follower.seen[-1][1]["verdict"] == events[-1]["verdict"]
    assert server.ask("GET", f"/api/runs/{follower.run_id}/log")[2] == (written / "core.log").read_bytes()


def test_a_server_killed_at_random_moments_loses_and_doubles_nothing(
    tmp_path: Path, instance: EmbeddedInstance, files: FileServer
) -> None:
    run_through_kills(tmp_path / "server", instance, files, runs=4, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(900)  # a minute and a half on two free cores
@pytest.mark.parametrize("seed", range(2, 8))
def test_twenty_runs_survive_a_server_killed_at_random_moments(
    tmp_path: Path, instance: EmbeddedInstance, files: FileServer, seed: int
) -> None:
    run_through_kills(tmp_path / "server", instance, files, runs=20, seed=seed, within_s=300)


def test_hooks_are_told_once_even_when_the_server_was_killed_in_between(
    tmp_path: Path, instance: EmbeddedInstance, files: FileServer
) -> None:
    hook = tmp_path / "hook.sh"
    hook.write_text(
        f'#!/bin/sh\ncat >> {tmp_path}/payloads\necho "$PROVISION_HOOK $PROVISION_VERDICT" >> {tmp_path}/told\n'
    )
    hook.chmod(0o755)
    server = Server(tmp_path / "server", "--on-usable", str(hook), "--on-finished", str(hook))
    server.start()
    try:
        text = profile_of(files)
        fault = slow(files)
        server.post("/api/runs", order(instance, text, run_id="one", labels={"pool": "a"}))
        told = tmp_path / "told"
        eventually(lambda: told.read_text() == "usable \n")
        eventually(lambda: server.told_hooks() == ["one:usable:0"])  # a kill before that tells it again
        server.kill()
        server.start()
        fault.bytes_per_s = None
        server.outcome("one")
        eventually(lambda: told.read_text() == "usable \nfinished complete\n")
        assert '"pool": "a"' in (tmp_path / "payloads").read_text()
    finally:
        server.close()


def test_an_ended_server_leaves_its_runs_going_and_the_next_takes_them_up(
    server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    text = profile_of(files)
    fault = slow(files)
    server.post("/api/runs", order(instance, text, run_id="one"))
    follower = Follower(server, "one")
    eventually(lambda: server.get("/api/runs/one")["state"] == "usable")

    assert server.end() == 0
    fault.bytes_per_s = None
    server.start()

    assert server.outcome("one")["verdict"] == "complete"
    follower.assert_whole()


def test_secrets_never_come_back_and_are_asked_for_again_only_when_an_agent_needs_a_start(
    server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    secret = "hf_very-secret-value-4711"
    text = profile_of(files) + "\nsecrets: {HF_TOKEN: {hosts: [huggingface.co]}}\n"
    fault = slow(files)
    body = order(instance, text, run_id="one", secrets={"HF_TOKEN": secret})
    server.post("/api/runs", body)
    follower = Follower(server, "one")
    eventually(lambda: server.get("/api/runs/one")["state"] == "usable")
    server.kill()
    server.start()
    eventually(lambda: follower.seen[-1][1]["event"] == "download_progress" and connected(follower) == 2)
    server.kill()
    holder = json.loads((instance.workspace / ".provision/lock").read_text())
    for name in ("keeper", "agent"):
        os.kill(holder[name]["pid"], signal.SIGKILL)
    server.start()
    eventually(lambda: server.get("/api/runs/one")["secrets_needed"] == ["HF_TOKEN"])
    fault.bytes_per_s = None

    server.post("/api/runs/one/secrets", {"secrets": {"HF_TOKEN": secret}})

    assert server.outcome("one")["verdict"] == "complete"
    follower.assert_whole()
    asked = [event.get("from") for _, event in follower.seen if event["event"] == "secrets_needed"]
    assert asked == ["collector"], "asked for before the start, so that the agent lacks nothing"
    assert server.get("/api/runs/one")["secrets_needed"] == []
    for path in [*server.folder.rglob("*"), *instance.workspace.rglob("*")]:
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert secret not in json.dumps([server.get("/api/runs/one"), follower.seen])


def connected(follower: Follower) -> int:
    return sum(1 for _, event in follower.seen if event["event"] == "connected")


def _verdict(instance: EmbeddedInstance, run: str) -> Any:
    return json.loads((instance.workspace / f".provision/runs/{run}/status.json").read_text())["verdict"]
