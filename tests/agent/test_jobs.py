"""Jobs of whole runs: begun when all else is there, waited for, found again by the next agent, ended with the run."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from harness.agent_runs import AgentRuns, finished, provision_identity, told_so_far, until
from provision_agent.run.keeper import Keeper
from provision_agent.run.record import Handed
from provision_agent.run.workspace import Workspace, WorkspaceLock

TRAIN = """
import os, pathlib, sys, time
pathlib.Path("begun").open("a").write("x")
print("epoch 1", os.environ.get("TOKEN", ""), flush=True)
go = pathlib.Path("go")
while not go.exists():
    time.sleep(0.02)
print("done", flush=True)
sys.exit(int(go.read_text() or "0"))
"""


def job(name: str = "train", **fields: Any) -> dict[str, Any]:
    return {"name": name, "run": [sys.executable, "-c", TRAIN], **fields}


def status(events: Path, name: str = "train") -> dict[str, Any]:
    """What the supervisor of a job last wrote."""
    path = events.with_name(f"job-{name}.status.json")
    return dict(json.loads(path.read_text())) if path.exists() else {"state": ""}


def begun(events: Path, name: str = "train") -> list[dict[str, Any]]:
    return [each for each in told_so_far(events) if each["event"] == "job_started" and each["item"] == name]


def test_a_verdict_waits_for_the_exit_status_of_a_job_and_no_deadline_comes_meanwhile(
    runs: AgentRuns,
) -> None:
    plan = {
        "files": [{"path": "data.txt", "content": "x", "level": "critical"}],
        "jobs": [job(secrets=["TOKEN"])],
        "secrets": [{"name": "TOKEN"}],
    }
    events = runs.start(plan, {"TOKEN": "v4lue-of-it"})
    until(lambda: begun(events))
    record = json.loads(events.with_name("run.json").read_text())
    late = {**record, "started_boot_s": record["started_boot_s"] - 1e6}
    workspace = Workspace(str(runs.workspace))
    events.with_name("run.json").write_text(json.dumps({**late, "stopped_after_s": None}))
    keeper = Keeper(workspace, "r1", Handed({}), WorkspaceLock(workspace, -1))
    assert keeper.is_late()
    events.with_name("run.json").write_text(json.dumps(late))  # as the agent wrote it when the job began
    assert not keeper.is_late()
    runs.write("go", "0")
    told = finished(events)

    assert told.verdict == "complete"
    assert told.of("job_finished", "train")[0]["exit_status"] == 0
    assert told.index("run_usable") < told.index("job_started")
    log = events.with_name("job-train.log")
    assert log.read_text().splitlines() == ["epoch 1 v4lue-of-it", "done"]
    assert told.events[-1]["sizes"]["job-train"] == log.stat().st_size


def test_a_job_that_fails_is_said_with_its_status_and_the_next_is_not_begun(runs: AgentRuns) -> None:
    runs.write("go", "3")
    told = runs.run({"jobs": [job(), job("export")]})

    failed = told.of("job_failed", "train")[0]
    assert (told.verdict, failed["class"], failed["exit_status"]) == ("failed", "command", 3)
    assert "exit status 3: epoch 1" in failed["message"]
    assert "`train` failed before it" in told.of("job_failed", "export")[0]["message"]
    assert (runs.workspace / "begun").read_text() == "x"


def test_a_job_is_not_begun_where_something_that_it_may_need_is_missing(runs: AgentRuns) -> None:
    checks = [{"name": "data", "path": "data.txt"}, {"name": "more", "path": "more.txt", "level": "optional"}]
    told = runs.run({"checks": checks, "jobs": [job()]})

    assert told.verdict == "failed"
    assert "`data` failed before it" in told.of("job_failed", "train")[0]["message"]
    assert not told.of("job_started")


def test_a_job_that_takes_too_long_is_ended_by_its_own_timeout(runs: AgentRuns) -> None:
    told = runs.run({"jobs": [job(timeout_s=0.5)]})

    failed = told.of("job_failed", "train")[0]
    assert (told.verdict, failed["class"]) == ("failed", "timed_out")
    assert "gives" not in failed["message"] and "timeout" in failed["message"]


def test_an_agent_that_is_started_again_goes_on_with_the_job_and_does_nothing_else_again(
    runs: AgentRuns,
) -> None:
    count = [sys.executable, "-c", "open('count', 'a').write('x')"]
    plan = {
        "commands": [{"name": "count", "run": count}],
        "jobs": [job(), job("export", run=[sys.executable, "-c", "1"])],
    }
    events = runs.start(plan)
    first = until(lambda: begun(events))[0]["pid"]
    os.kill(runs.lock()["agent"]["pid"], signal.SIGKILL)
    again = until(lambda: begun(events)[1:])
    assert (again[0]["pid"], again[0]["adopted"]) == (first, True)
    runs.write("go", "0")
    told = finished(events)

    assert told.verdict == "complete"
    assert (runs.workspace / "count").read_text() == (runs.workspace / "begun").read_text() == "x"
    assert len(told.of("job_finished", "export")) == 1


def test_a_run_whose_agent_and_keeper_died_knows_the_exit_status_that_came_meanwhile(runs: AgentRuns) -> None:
    plan = {"format": 2, "name": "x", "workspace": str(runs.workspace), "jobs": [job()]}
    events = runs.start(plan)
    until(lambda: begun(events))
    for role in ("keeper", "agent"):
        os.kill(runs.lock()[role]["pid"], signal.SIGKILL)
    runs.write("go", "7")
    until(lambda: status(events)["state"] == "exited")
    answer = runs.ask("start", {"run": "again", "plan": plan})
    told = finished(events)

    assert answer["state"] == "resumed"
    assert (told.verdict, told.of("job_failed", "train")[0]["exit_status"]) == ("failed", 7)
    assert (runs.workspace / "begun").read_text() == "x"


def test_a_run_that_is_stopped_ends_its_job(runs: AgentRuns) -> None:
    events = runs.start({"jobs": [job()]})
    until(lambda: begun(events))
    answer = runs.ask("stop", {})

    assert (answer["stopped"], answer["verdict"]) == (True, "cancelled")
    assert status(events)["state"] == "stopped"
    assert not provision_identity(status(events)["child"]).is_alive()


def test_a_job_whose_run_has_died_is_ended_by_another_plan_only_where_that_was_asked_for(
    runs: AgentRuns,
) -> None:
    events = runs.start({"jobs": [job()]})
    until(lambda: begun(events))
    held = runs.lock()  # read once: whoever is left for a moment writes it anew
    killed = [provision_identity(held[role]) for role in ("keeper", "agent")]
    for each in killed:
        os.kill(each.pid, signal.SIGKILL)
    other = {"format": 2, "name": "other", "workspace": str(runs.workspace)}
    until(lambda: not any(each.is_alive() for each in killed))
    refused = runs.ask("start", {"run": "b", "plan": other})
    assert status(events)["state"] == "running"
    replaced = runs.ask("start", {"run": "b", "plan": other, "replace": True})

    assert (refused["state"], refused["run"]) == ("refused", "r1")
    assert replaced["state"] == "started"
    assert status(events)["state"] == "stopped"
