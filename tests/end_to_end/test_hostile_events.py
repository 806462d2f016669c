"""An instance that writes into its own events what no agent writes: its run ends by itself, and nobody else's does."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from harness.file_server import FileServer
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import Here, eventually
from .server import Follower, Server
from .test_server import order, slow
from .test_up import profile_of

HEAD = {"format": 1, "ts": "2026-01-01T00:00:00.000Z", "run": "pool-2", "seq": 100_000}
FORGED_OUTCOME = {
    "host": "203.0.113.9", "labels": {"pool": "b"}, "verdict": "instance-gone", "exit_code": 15,
    "next": "replace_instance", "duration_s": 1, "usable_after_s": None, "bytes_downloaded": 0,
    "downloads": {"ok": 0, "failed": 0, "skipped": 0}, "checks": {"passed": 0, "failed": []}, "warnings": [],
    "services": [], "errors": [], "gaps": [], "reconnects": 0, "logs": {"core": "/etc/passwd"},
}  # fmt: skip


def line(name: str, **fields: Any) -> bytes:
    return json.dumps({**HEAD, "event": name, **fields}).encode() + b"\n"


FORGED = [
    line("outcome", **{"from": "collector"}, **FORGED_OUTCOME),
    line("outcome", **FORGED_OUTCOME),
    line("connection_lost", cause="FORGED", retry_in_s=9.0),
    line("gap", file="FORGED", bytes=5),
    line("run_accepted", host="FORGED"),
    line("agent_restarted", restarts=77),
    line("secrets_needed", names=["AWS_SECRET_ACCESS_KEY"], **{"from": "collector"}),
]
BAD = {
    "text for bytes": line("download_progress", item="a", bytes="lots", total_bytes={}, bytes_per_s="x"),
    "a number for names": line("secrets_needed", names=5),
    "not finite": line("run_usable", after_s=1).replace(b": 1}", b": NaN}"),
    "many digits": line("download_sized", item="a", total_bytes=1).replace(
        b": 1}", b": " + b"9" * 4000 + b"}"
    ),
    "deep": line("facts_found", facts=1).replace(b": 1}", b": " + b"[" * 90_000 + b"]" * 90_000 + b"}"),
    "huge": line("warning", message="x" * 3_000_000),
    "no verdict": line("run_finished", verdict=["complete"], sizes=[]),
    "no time": line("run_started", ts="yesterday", deadline_s=3600),
    "no object": b"5\n",
}


def write(events: Path, *lines: bytes) -> None:
    """Write *lines* into the events of a run that is going, beside its agent."""
    eventually(lambda: events.exists() and b"download_started" in events.read_bytes())
    with events.open("ab") as file:
        file.write(b"".join(lines))


def assert_served(server: Server) -> None:
    for path in ("/api/runs", "/api/runs?state=going", "/api/runs/bad", "/metrics", "/api/hosts", "/healthz"):
        assert server.ask("GET", path)[0] == 200, path


@pytest.mark.parametrize("what", BAD)
def test_an_event_that_does_not_fit_ends_the_watching_as_the_instances_fault(
    here: Here, files: FileServer, what: str
) -> None:
    profile = profile_of(files).replace("run: 60s", "run: 600s")
    slow(files).bytes_per_s = 20_000
    child = here.spawn_up(here.profile(profile), "--run-id", "bad")
    write(here.remote("bad", "events.jsonl"), BAD[what])
    done = here.finish(child)

    assert (done.code, done.outcome["verdict"], done.outcome["next"]) == (
        14,
        "agent-lost",
        "replace_instance",
    )
    assert done.outcome["errors"][-1]["class"] == "protocol"
    assert "no agent writes" in done.outcome["errors"][-1]["message"]
    assert "run_started" in [event["event"] for event in done.lines], "what came before it was told"
    assert "Traceback" not in done.stderr + done.stdout
    if what == "text for bytes":
        again = here.run("attach", "bad", "--json")
        assert (again.code, again.outcome["errors"][-1]["class"]) == (14, "protocol")
        listed = json.loads(here.run("status", "--json").stdout)
        assert listed["state"] == "broken"
        assert "no agent writes" in listed["broken"]
        assert here.run("stop", "bad").code == 0, "it can still be ended"


def test_what_only_this_side_tells_is_not_believed_from_an_instance(here: Here, files: FileServer) -> None:
    profile = profile_of(files)
    fault = slow(files)
    child = here.spawn_up(here.profile(profile), "--run-id", "one")
    plain = here.spawn("attach", "one", *here.connection())
    write(here.remote("one", "events.jsonl"), *FORGED)
    fault.bytes_per_s = None
    done, shown = here.finish(child), here.finish(plain)

    assert (done.code, done.outcome["verdict"], done.outcome["gaps"]) == (0, "complete", [])
    assert [event["run"] for event in done.lines] == ["one"] * len(done.lines)
    assert len(done.named("outcome")) == 1
    for text in (done.stdout, done.stderr, shown.stdout, shown.stderr):
        assert "FORGED" not in text
        assert "instance-gone" not in text
        assert "203.0.113.9" not in text
    assert [event for event in done.lines if event["event"] == "secrets_needed" and "from" in event] == []
    assert (
        Path(done.outcome["logs"]["events"]).read_bytes() == here.remote("one", "events.jsonl").read_bytes()
    )


def test_a_server_lists_serves_and_starts_whatever_one_instance_writes(
    server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    profile = profile_of(files)
    slow(files)
    server.post("/api/runs", order(instance, profile, run_id="bad"))
    follower = Follower(server, "bad")
    events = instance.workspace / ".provision/runs/bad/events.jsonl"
    write(
        events,
        *FORGED,
        *(line(f"made_up_{number}", seq=200_000 + number, more={"n": number}) for number in range(100)),
    )
    eventually(lambda: b"made_up_99" in b"".join(server.kept("bad")))
    status = server.get("/api/runs/bad")
    assert (status["outcome"], status["secrets_needed"], status["gaps"]) == (None, [], [])
    assert "made_up" not in server.ask("GET", "/metrics")[2].decode(), "names that are made up are one number"
    write(events, BAD["text for bytes"], BAD["a number for names"])
    outcome = server.outcome("bad")
    follower.join(20)

    assert (outcome["verdict"], outcome["run"], outcome["errors"][-1]["class"]) == (
        "agent-lost",
        "bad",
        "protocol",
    )
    told = [event for _, event in follower.seen]
    assert [event["event"] for event in told].count("outcome") == 1
    assert "lots" not in json.dumps(told)
    assert all(event["run"] == "bad" for event in told)
    assert_served(server)
    assert server.end() == 0
    server.start()
    assert_served(server)
    assert server.get("/api/runs")["runs"][0]["verdict"] == "agent-lost"
    assert "Traceback" not in server.stderr.read_text()


@pytest.mark.parametrize("end", ["stop", "release"])
def test_a_store_that_holds_such_events_already_is_served_and_its_run_is_broken(
    server: Server, instance: EmbeddedInstance, files: FileServer, end: str
) -> None:
    profile = profile_of(files)
    slow(files)
    server.post("/api/runs", order(instance, profile, run_id="bad"))
    eventually(lambda: server.get("/api/runs/bad")["downloads"])
    server.kill()
    server.keep(  # as an earlier release took it
        "bad",
        *(BAD[what].rstrip(b"\n") for what in ("text for bytes", "a number for names", "not finite", "deep")),
        b"\0\0no JSON",
        line("outcome", **{"from": "collector"}, verdict=["x"]).rstrip(b"\n"),
        line("connected", **{"from": "collector", "seq": "x"}).rstrip(b"\n"),
    )
    server.start()

    assert_served(server)
    listed = eventually(lambda: server.get("/api/runs?state=broken")["runs"])[0]
    assert (listed["run"], listed["state"], listed["verdict"]) == ("bad", "broken", None)
    assert "cannot be read" in listed["broken"]
    assert server.get("/api/runs/bad")["state"] == "broken"
    assert 'provision_runs{state="broken"} 1.0' in server.ask("GET", "/metrics")[2].decode()
    eventually(lambda: server.get("/api/runs/bad")["contact"] == "connected")
    server.post(f"/api/runs/bad/{end}")
    assert server.outcome("bad")["verdict"] == {"stop": "cancelled", "release": "instance-gone"}[end]
    server.kill()
    server.start()
    assert_served(server)
    assert (
        server.get("/api/runs")["runs"][0]["state"] == {"stop": "cancelled", "release": "instance-gone"}[end]
    )


@pytest.mark.parametrize("end", ["stop", "release"])
def test_a_run_that_cannot_be_taken_up_is_listed_as_broken_and_can_be_ended(
    server: Server, instance: EmbeddedInstance, files: FileServer, end: str
) -> None:
    profile = profile_of(files)
    slow(files)
    server.post("/api/runs", order(instance, profile, run_id="bad"))
    eventually(lambda: server.get("/api/runs/bad")["downloads"])
    server.kill()
    with sqlite3.connect(next(server.folder.rglob("server.sqlite"))) as database:
        database.execute("UPDATE runs SET plan = '{}'")
    server.start()

    assert_served(server)
    listed = eventually(lambda: server.get("/api/runs?state=broken")["runs"])[0]
    assert listed["state"] == server.get("/api/runs/bad")["state"] == "broken"
    assert server.get("/api/runs?state=going")["runs"][0]["broken"]
    assert listed["broken"]
    server.post(f"/api/runs/bad/{end}")
    ended = server.get("/api/runs?state=finished")["runs"][0]
    assert ended["verdict"] == {"stop": "cancelled", "release": "instance-gone"}[end]
    if end == "stop":
        assert b'"cancelled"' in (instance.workspace / ".provision/runs/bad/events.jsonl").read_bytes()


def test_one_instance_of_a_fleet_that_writes_such_events_ends_alone(
    here: Here, instance: EmbeddedInstance, files: FileServer, tmp_path: Path
) -> None:
    other = EmbeddedInstance(tmp_path / "other", server="sshd")
    other.start()
    try:
        items = [f"- {{host: '{i.user}@{i.host}:{i.port}', key: {i.key_path}}}" for i in (instance, other)]
        pool = here.profile("\n".join(items) + "\n", "pool.yaml")
        profile = here.profile(profile_of(files))
        fault = slow(files)
        words = ("fleet", "up", pool, "--profile", profile, "--workspace", "~/work", "--json")
        child = here.spawn(*words)
        bad = eventually(lambda: next(iter(instance.home.rglob("work/.provision/runs/*/events.jsonl")), None))
        write(bad, *FORGED, BAD["no verdict"])
        eventually(lambda: '"agent-lost"' in here.said(child))
        fault.bytes_per_s = None
        done = here.finish(child)
    finally:
        other.switch_off()

    assert done.lines[-1]["event"] == "fleet_finished"
    assert [member["state"] for member in done.lines[-1]["members"]] == ["agent-lost", "complete"], (
        done.stderr
    )
    assert done.code == 14
    assert "Traceback" not in done.stderr
    assert "203.0.113.9" not in done.stdout
