"""What ends an instance by itself: after idle time, at its most, and `on_failure` when the results are home."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import provision_agent
import pytest
from harness import agent_runs
from harness.adopted import adopted
from harness.agent_runs import PROGRAM, AgentRuns, finished, provision_identity, told_so_far, until
from harness.file_server import Content, FileServer
from provision_agent.contract.plan import Ready, Service
from provision_agent.contract.plan_files import Output
from provision_agent.contract.plan_jobs import Hook, Lifetime
from provision_agent.files.home import HomeLog
from provision_agent.files.moved import Moved, moved_ago_s
from provision_agent.lifetime import activity, deciding, logins
from provision_agent.lifetime.records import LifetimeFiles, LifetimeOrder, LifetimeState
from provision_agent.lifetime.uptime import Moment

HOOK = (
    "import os, sys; key = os.environ['PROVISION_KEY'] + ' ' + os.environ['PROVISION_REASON']; "
    "open('hook', 'a').write(key + ' ' + os.environ.get('VAST_KEY', '-') + os.environ.get('OTHER', '') + chr(10)); "
    "sys.exit(int(open('status').read()) if os.path.exists('status') else 0)"
)
WAITS = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)\nraise SystemExit(int(open('go').read() or 0))"
FAILS: dict[str, Any] = {
    "checks": [{"name": "x", "path": "missing", "level": "critical"}],
    "outputs": [{"path": "out"}],
}
FOREVER = 1e6

pytestmark = pytest.mark.timeout(300)


def hook(**fields: Any) -> dict[str, Any]:
    return {"run": [sys.executable, "-c", HOOK], **fields}


@pytest.fixture
def nobody_logs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that sees no login: other tests hold sessions on this machine."""
    root = tmp_path / "agent"
    shutil.copytree(Path(provision_agent.__file__).parent, root / "provision_agent")
    path = root / "provision_agent" / "lifetime" / "logins.py"
    text = re.sub(r"_SERVERS = .*", "_SERVERS = ()", path.read_text())
    path.write_text(re.sub(r"_RECORDS = .*", "_RECORDS = ()", text))
    monkeypatch.setattr(agent_runs, "PROGRAM", PROGRAM.replace(agent_runs.ROOT, str(root)))


def process_of(runs: AgentRuns) -> dict[str, Any]:
    path = runs.workspace / ".provision/lifetime/process.status.json"
    return dict(json.loads(path.read_text())) if path.exists() else {"state": "", "child": None}


def state(runs: AgentRuns) -> dict[str, Any]:
    path = runs.workspace / ".provision/lifetime/state.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def fired(runs: AgentRuns) -> list[str]:
    path = runs.workspace / "hook"
    return path.read_text().splitlines() if path.exists() else []


# -- what is measured, by a clock of our own

ORDER = LifetimeOrder("r", Lifetime(Hook(("true",)), idle_s=1200, max_s=28800))


def later(state: LifetimeState, passed_s: float, busy: str = "") -> LifetimeState:
    """*state* so much later, looked at every 5 seconds."""
    for _ in range(int(passed_s / 5)):
        now = replace(state.moment, at_s=state.moment.at_s + 5)
        state = deciding.measured(state, now, busy, up_since_s=0)
    return state


def begun() -> LifetimeState:
    return deciding.measured(LifetimeState("r"), Moment("boot", 1000.0), "", up_since_s=0)


def test_an_instance_is_idle_only_while_nothing_goes_on() -> None:
    state = later(begun(), 1195)
    assert deciding.reason(ORDER, state) == ""
    assert deciding.reason(ORDER, later(state, 5)) == "idle"
    busy = later(state, 5, "job train")
    assert (busy.idle_s, deciding.reason(ORDER, busy)) == (0, "")
    assert deciding.idle_in_s(ORDER, later(busy, 100)) == 1100


def test_at_its_most_it_is_ended_whatever_goes_on_and_that_is_near_ten_minutes_before() -> None:
    state = later(begun(), 28195, "job train")
    assert not deciding.is_soon(ORDER, state)
    assert deciding.is_soon(ORDER, later(state, 5, "job train"))
    assert deciding.reason(ORDER, later(state, 605, "job train")) == "max"


def test_an_extension_puts_both_off_once() -> None:
    state = deciding.extended(later(begun(), 1200), [7200.0])
    assert deciding.extended(state, [7200.0]) == state
    assert (deciding.idle_in_s(ORDER, state), deciding.max_in_s(ORDER, state)) == (7200, 28800 + 7200 - 1200)
    assert deciding.reason(ORDER, later(state, 7195)) == ""
    assert deciding.reason(ORDER, later(state, 7200)) == "idle"


def test_time_in_which_nobody_looked_is_no_idle_time_and_counts_for_the_most() -> None:
    state = later(begun(), 600)
    moment = replace(state.moment, at_s=state.moment.at_s + 3600)
    found = deciding.measured(state, moment, "", up_since_s=0)
    assert (found.idle_s, found.elapsed_s) == (0, 4200)


def test_of_a_reboot_only_the_time_since_counts_however_long_the_instance_was_stopped() -> None:
    state = later(begun(), 600)
    found = deciding.measured(state, Moment("another boot", 90.0), "", up_since_s=30.0)
    assert (found.idle_s, found.elapsed_s) == (0, 660)


def test_a_hook_that_fails_is_run_again_after_growing_pauses() -> None:
    assert [deciding.pause_s(count) for count in (1, 2, 3, 9, 999)] == [5, 10, 20, 300, 300]


def test_results_hold_the_most_back_for_outputs_keep_and_nothing_that_comes_meanwhile_does_so_again() -> None:
    order = replace(ORDER, outputs=(Output("out"),), outputs_keep_s=3600.0)
    state = replace(later(begun(), 28800), reason="max", not_home=2)
    assert (deciding.max_in_s(order, state), deciding.held_in_s(order, state)) == (0, 3600)
    told = deciding.told(order, later(state, 600), is_running=True)
    assert (told.state, told.held_in_s, told.keep_s) == ("held", 3000, 3600)
    failed_meanwhile = replace(later(state, 3600), reason="failed", due_s=5.0)
    assert deciding.held_in_s(order, failed_meanwhile) == 0


def test_a_date_that_jumps_moves_neither_idle_nor_max(tmp_path: Path) -> None:
    preload = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if preload is None:
        pytest.skip("there is no faketime here")
    date, files = tmp_path / "date", LifetimeFiles(str(tmp_path / "work"))
    date.write_text("+0")
    Path(files.folder).mkdir(parents=True)
    files.begin(LifetimeOrder("r", Lifetime(Hook(("touch", "ended")), idle_s=1.0, max_s=86400.0)))
    files.extend(86400.0)  # so that it looks often, and is ended late
    environment = {
        **os.environ, "LD_PRELOAD": str(preload), "FAKETIME_TIMESTAMP_FILE": str(date), "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": agent_runs.ROOT,
    }  # fmt: skip
    now = [sys.executable, "-c", "import time; print(time.time())"]
    # its `clock_nanosleep` knows no absolute time: sleep otherwise
    measure = "import runpy, select, time; time.sleep = lambda s: select.select([], [], [], s); "
    measure += "runpy.run_module('provision_agent', run_name='__main__')"
    words = [sys.executable, "-c", measure, "lifetime", files.workspace]
    meter = subprocess.Popen(words, env=environment)
    try:
        for jump in ("+40d", "-40d", "+0"):
            date.write_text(jump)
            seen = float(subprocess.run(now, env=environment, stdout=subprocess.PIPE, check=True).stdout)
            assert jump == "+0" or abs(seen - time.time()) > 30 * 86400
            before = files.state().moment.at_s
            until(lambda before=before: files.state().moment.at_s > before, within_s=100)
            state = files.state()
            assert max(state.elapsed_s, state.idle_s) < 3600 and not state.reason
        files.extend(-1e6)  # what is over is over, whatever the date is
        until((Path(files.workspace) / "ended").exists, within_s=100)
    finally:
        meter.kill()
        meter.wait()


# -- by real processes


@pytest.mark.usefixtures("nobody_logs_in")
def test_an_idle_instance_is_ended_by_itself_once_though_its_agent_and_what_measures_were_killed(
    runs: AgentRuns,
) -> None:
    lifetime = {"idle_s": 1, "max_s": FOREVER, "then": hook(secrets=["VAST_KEY"])}
    secrets = [{"name": "VAST_KEY"}, {"name": "OTHER"}]
    command = {"name": "wait", "run": [sys.executable, "-c", WAITS], "timeout_s": 90}
    events = runs.start(
        {"lifetime": lifetime, "secrets": secrets, "commands": [command]}, {"VAST_KEY": "v4lue", "OTHER": "x"}
    )
    until(lambda: state(runs).get("busy", "").startswith("run "))
    os.kill(runs.lock()["agent"]["pid"], signal.SIGKILL)
    first = process_of(runs)
    os.kill(first["child"]["pid"], signal.SIGKILL)
    again = until(
        lambda: (found := process_of(runs))["state"] == "running" and found["starts"] == 2 and found
    )
    os.kill(again["supervisor"]["pid"], signal.SIGKILL)
    until(lambda: process_of(runs)["supervisor"]["pid"] != again["supervisor"]["pid"], within_s=100)
    runs.write("go", "0")
    assert finished(events).verdict == "complete"
    until(lambda: process_of(runs)["state"] == "exited", within_s=100)

    assert fired(runs) == ["r1:lifetime idle v4lue"]
    assert "v4lue" not in "".join(
        path.read_text(errors="replace") for path in runs.workspace.glob(".provision/lifetime/*.json*")
    )


def test_a_hook_that_fails_is_run_again_under_the_same_key_though_a_job_goes_on(runs: AgentRuns) -> None:
    runs.write("status", "1")
    job = {"name": "train", "run": [sys.executable, "-c", WAITS]}
    events = runs.start({"lifetime": {"max_s": 1, "then": hook()}, "jobs": [job]})
    until(lambda: fired(runs), within_s=100)
    told = runs.ask("status", {})["runs"][0]["lifetime"]
    refused = runs.ask("extend", {"for_s": 60})
    runs.write("status", "0")
    until(lambda: process_of(runs)["state"] == "exited", within_s=100)
    runs.write("go", "0")

    assert finished(events).of("lifetime_ending")[0]["reason"] == "max"
    assert set(fired(runs)) == {"r1:lifetime max -"}
    assert len(fired(runs)) == 2
    assert (told["state"], told["attempts"]) == ("ending", 1)
    assert refused["class"] == "conflict"


def test_an_on_failure_that_keeps_failing_does_not_keep_the_instance_beyond_its_most(runs: AgentRuns) -> None:
    never = [sys.executable, "-c", "open('asked', 'a').write('x'); raise SystemExit(1)"]
    plan = {**FAILS, "on_failure": {"run": never}, "lifetime": {"max_s": 2, "then": hook()}}
    assert runs.run(plan).verdict == "failed"
    until(lambda: process_of(runs)["state"] == "exited", within_s=100)

    assert (runs.workspace / "asked").exists()
    assert fired(runs) == ["r1:lifetime max -"]


def test_results_that_nobody_has_fetched_hold_on_failure_back_until_they_are_home(runs: AgentRuns) -> None:
    train = "open('out/a.bin', 'wb').write(b'1' * 9); raise SystemExit(3)"
    (runs.workspace / "out").mkdir(parents=True)
    plan = {
        "jobs": [{"name": "train", "run": [sys.executable, "-c", train]}],
        "outputs": [{"path": "out"}],
        "on_failure": hook(),
    }
    assert runs.run(plan).verdict == "failed"
    until(lambda: state(runs).get("not_home") == 1)
    assert fired(runs) == []
    result = runs.workspace / "out/a.bin"
    HomeLog(str(runs.workspace)).say(str(result), 9, result.stat().st_mtime_ns)
    until(lambda: process_of(runs)["state"] == "exited", within_s=100)

    assert fired(runs) == ["r1:on_failure failed -"]


def test_results_that_nobody_fetches_hold_it_back_for_outputs_keep_only(runs: AgentRuns) -> None:
    runs.write("out/a.bin", "result")
    assert runs.run({**FAILS, "outputs_keep_s": 1, "on_failure": hook()}).verdict == "failed"
    until(lambda: fired(runs), within_s=100)

    assert fired(runs) == ["r1:on_failure failed -"]


def test_a_run_that_follows_a_failed_one_calls_its_on_failure_off(runs: AgentRuns) -> None:
    runs.write("out/a.bin", "result")
    runs.run({**FAILS, "on_failure": hook()})
    until(lambda: state(runs).get("not_home") == 1)
    assert runs.run({"outputs": [{"path": "out"}]}).verdict == "complete"
    until(lambda: process_of(runs)["state"] == "exited", within_s=100)

    assert fired(runs) == []


def test_keep_puts_the_end_off_and_status_says_when(runs: AgentRuns) -> None:
    runs.run({"lifetime": {"idle_s": 1000, "max_s": 5000, "then": hook()}})
    until(lambda: state(runs).get("moment"))
    before = runs.ask("status", {})["runs"][0]["lifetime"]
    after = runs.ask("extend", {"for_s": 7200, "run": "r1"})["lifetime"]
    nobody = runs.ask("extend", {"for_s": 7200, "run": "r2"})
    [warned] = runs.run({"name": "y"}).of("warning")

    assert 4000 < before["max_in_s"] <= 5000 < 11000 < after["max_in_s"] <= 12200
    assert (after["idle_in_s"] or 7000) > 6000
    assert nobody["class"] == "missing"
    assert "run `r1` before this one has a `lifetime`, which still holds" in warned["message"]
    assert not [
        each
        for each in told_so_far(runs.workspace / ".provision/runs/r1/events.jsonl")
        if each["event"] == "lifetime_ending"
    ]


def test_after_a_reboot_it_goes_on_where_the_instance_s_init_starts_it(runs: AgentRuns) -> None:
    runs.run({"lifetime": {"max_s": 50_000, "then": hook()}})
    measured = until(lambda: (found := state(runs)).get("moment") and found)
    for name in ("supervisor", "child"):
        provision_identity(process_of(runs)[name]).end(within_s=10)
    folder = runs.workspace / ".provision/lifetime"
    before = {"boot": "an earlier boot:1", "at_s": 1e9}
    (folder / "state.json").write_text(json.dumps({**measured, "moment": before, "elapsed_s": 49_999.0}))
    subprocess.Popen(
        [sys.executable, "-I", "-c", PROGRAM, "supervise", "lifetime", str(folder / "process.order.json")],
        start_new_session=True,
    ).wait(timeout=60)

    assert fired(runs) == ["r1:lifetime max -"]


def test_what_measures_is_begun_again_by_a_run_that_goes_on_when_all_of_it_was_killed(
    runs: AgentRuns,
) -> None:
    plan = {
        "lifetime": {"max_s": FOREVER, "then": hook()},
        "jobs": [{"name": "train", "run": [sys.executable, "-c", WAITS]}],
    }
    events = runs.start(plan)
    first = until(lambda: state(runs).get("moment") and process_of(runs))
    for name in ("supervisor", "child"):
        os.kill(first[name]["pid"], signal.SIGKILL)
    until(lambda: process_of(runs)["supervisor"]["pid"] != first["supervisor"]["pid"], within_s=100)
    runs.write("go", "0")

    assert finished(events).verdict == "complete"


def test_whoever_is_at_a_terminal_reads_that_the_end_is_near() -> None:
    here, there = os.openpty()
    logins.say("it ends", [os.ttyname(there), "/dev/pts/99999", "/etc/passwd"])

    assert os.read(here, 100).strip() == b"it ends"


def test_a_card_that_works_and_prompts_in_a_queue_are_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 3\necho 97\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert activity.gpu_percents() == [3, 97]

    with FileServer() as server:
        queue = {"queue_running": [[0, "id", {}, {}, []]], "queue_pending": []}
        server.add("/queue", Content.of(json.dumps(queue).encode()))
        service = Service("ui", ("x",), ready=Ready(url=server.url("/system_stats")))
        order = LifetimeOrder("r", services=(service,))
        files = LifetimeFiles(str(tmp_path))
        assert list(activity.prompts(order, files)) == ["1 prompts in the queue of ui"]


def test_prompts_of_a_service_that_an_image_started_are_work_on_whatever_port_it_has_them(
    tmp_path: Path,
) -> None:
    with adopted(tmp_path, {"queue_running": [[0, "id", {}, {}, []]], "queue_pending": []}) as service:
        order = LifetimeOrder("r", services=(service,))
        assert list(activity.prompts(order, LifetimeFiles(str(tmp_path)))) == ["1 prompts in the queue of ui"]


def test_bytes_of_a_copy_are_work_for_a_while(tmp_path: Path) -> None:
    (tmp_path / ".provision").mkdir()
    assert moved_ago_s(str(tmp_path)) is None
    Moved(str(tmp_path))()
    assert 0 <= (moved_ago_s(str(tmp_path)) or 0) < activity.COPY_S


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_twenty_of_twenty_instances_are_ended_in_time_with_nobody_there(tmp_path: Path) -> None:
    told = "import os, time; open('hook', 'a').write(str(time.time()))"
    most_s, late_s = 20.0, []
    several = []
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        several.append(AgentRuns(folder))
        lifetime = {"max_s": most_s, "then": {"run": [sys.executable, "-c", told]}}
        events = several[-1].start({"lifetime": lifetime})
        until(lambda events=events: told_so_far(events))
    for each in several:
        found = until(lambda each=each: fired(each), within_s=300)
        ts = told_so_far(each.workspace / ".provision/runs/r1/events.jsonl")[0]["ts"]
        begun_unix = datetime.strptime(ts, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()
        late_s.append(float(found[0]) - begun_unix - most_s)
    print("late by", [round(each, 1) for each in late_s])

    assert all(-5 < each < 60 for each in late_s)
