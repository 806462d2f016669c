"""Rules that hold on the instance: one machine per workspace, the hook, services that stay, older agents."""

from __future__ import annotations

import json
import os
import signal
import socket
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from harness.file_server import Fault, FileServer
from provision_collector.instance import build_bundle

from .conftest import Here, eventually
from .test_survival import big_profile, landed, lift
from .test_up import free_port, profile_of


def test_a_second_machine_on_the_same_volume_is_refused_by_name(here: Here, files: FileServer) -> None:
    tool = here.instance.workspace / ".provision"
    tool.mkdir()
    record = {"format": 1, "hostname": "gpu-seven", "boot_id": "another", "run": "theirs"}
    (tool / "lock").write_text(json.dumps(record))

    done = here.up(here.profile(profile_of(files)))

    assert (done.code, done.outcome["verdict"]) == (4, "refused")
    assert "gpu-seven" in done.outcome["errors"][0]["message"]
    assert "--workspace" in done.outcome["errors"][0]["hint"]


def test_on_failure_runs_on_the_instance_even_when_nobody_listens(here: Here, files: FileServer) -> None:
    hook = '\non_failure: {run: [sh, -c, "echo ${run_id} > destroyed.txt"]}\n'
    profile = here.profile(profile_of(files) + hook)
    files.set_faults("/critical.safetensors", Fault(delay_s=1.5), Fault(status=404))
    files.set_faults("/required.safetensors", Fault(slow_after=1 << 16, bytes_per_s=20_000))
    child = here.spawn_up(profile, "--run-id", "doomed", "--timeout", "5s")
    eventually(lambda: here.remote("doomed", "events.jsonl").exists())
    os.killpg(child.pid, signal.SIGKILL)

    eventually(lambda: (here.instance.workspace / "destroyed.txt").read_text() == "doomed\n", within_s=60.0)

    assert here.agent_events("doomed")[-1]["verdict"] == "timeout"


def test_a_service_is_not_ended_by_the_agents_death_and_is_adopted_by_the_next_run(
    here: Here, files: FileServer
) -> None:
    port = free_port()
    extra = f"""
services:
  - name: web
    run: [python3, -m, http.server, "{port}", --bind, 127.0.0.1]
    ready: {{url: "http://127.0.0.1:{port}/", within: 15s}}
    level: critical
"""
    profile = here.profile(profile_of(files, extra=extra))
    first = here.up(profile)
    assert first.code == 0, first.stdout
    assert first.outcome["services"] == [
        {"name": "web", "state": "ready", "url": f"http://127.0.0.1:{port}/", "reachable": None}
    ]

    second = here.up(profile)

    assert second.code == 0
    assert first.named("service_started")[0]["pid"] == second.named("service_started")[0]["pid"]
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_a_port_that_somebody_else_holds_fails_the_service_with_its_owner(
    here: Here, files: FileServer
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        extra = f"""
services:
  - name: web
    run: [python3, -m, http.server, "{port}", --bind, 127.0.0.1]
    ready: {{url: "http://127.0.0.1:{port}/", within: 10s}}
    level: critical
"""
        done = here.up(here.profile(profile_of(files, extra=extra)))

    assert done.code == 1
    error = next(error for error in done.outcome["errors"] if error["item"] == "web")
    assert error["class"] == "port_taken"
    assert str(os.getpid()) in error["message"]


def test_a_full_disk_is_refused_before_the_first_large_byte(here: Here, files: FileServer) -> None:
    path = here.profile(profile_of(files).replace(f"size: {3 << 20}", "size: 900000000000000"))

    done = here.up(path)

    assert (done.code, done.outcome["next"]) == (1, "replace_instance")
    assert done.outcome["errors"][0]["class"] == "disk_full"
    assert files.bytes_sent() < 100_000


@pytest.fixture
def older_agent(tmp_path: Path) -> Path:
    """An archive of other bytes: an agent of another version, as it would lie on an instance from last week."""
    path = tmp_path / "older.pyz"
    path.write_bytes(build_bundle().data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("provision_agent/VERSION", "older")
    assert zipfile.ZipFile(BytesIO(path.read_bytes())).testzip() is None
    return path


def test_a_newer_tool_joins_a_run_of_an_older_agent(here: Here, files: FileServer, older_agent: Path) -> None:
    """The run keeps its own file; whoever comes later brings another one and only watches."""
    import subprocess

    from provision_collector.profile import compile_plan, load_profile

    profile = here.profile(big_profile(files))
    plan = compile_plan(load_profile(profile), workspace=str(here.instance.workspace))
    folder = here.instance.workspace / ".provision/agent"
    folder.mkdir(parents=True)
    stored = folder / ("0" * 64 + ".pyz")
    stored.write_bytes(older_agent.read_bytes())
    environment = {"HOME": str(here.instance.home), "PATH": os.environ["PATH"]}
    order = {"run": "old", "plan": plan.to_json(), "secrets": {}, "started_unix": 5}
    subprocess.run(
        ["python3", "-I", "-S", str(stored), "start"],
        input=json.dumps(order).encode(),
        check=True,
        env=environment,
    )
    eventually(lambda: landed(files))
    agent = here.lock()["agent"]["pid"]
    assert str(stored).encode() in Path(f"/proc/{agent}/cmdline").read_bytes()

    child = here.spawn_up(profile)
    eventually(lambda: here.connections("old") == 1)
    os.kill(agent, signal.SIGKILL)  # its keeper starts it again, from its own file
    eventually(lambda: here.lock()["agent"]["pid"] != agent)
    assert str(stored).encode() in Path(f"/proc/{here.lock()['agent']['pid']}/cmdline").read_bytes()
    prune = ["prune", "--json", *here.connection()]
    assert here.run(*prune).lines[0]["agents"] == [], "the run and its watcher need theirs"
    lift()
    done = here.finish(child)

    assert (done.code, done.outcome["run"]) == (0, "old"), done.stdout + done.stderr
    stored_agents = sorted(path.name for path in folder.iterdir())
    assert len(stored_agents) == 2
    here.assert_mirrored(done.outcome)
    assert here.run(*prune).lines[0]["agents"] == stored_agents
    assert list(folder.iterdir()) == []


def test_a_run_whose_beginning_was_cut_short_may_be_begun_again(here: Here, files: FileServer) -> None:
    runs = here.instance.workspace / ".provision/runs"
    (runs / "half").mkdir(parents=True)
    for name in ("plan.json", "events.jsonl"):
        (runs / "half" / name).touch()

    done = here.up(here.profile(profile_of(files)), "--run-id", "half")

    assert (done.code, done.outcome["run"]) == (0, "half"), done.stdout + done.stderr
    here.assert_mirrored(done.outcome)


def test_a_format_that_nobody_here_speaks_is_refused_by_naming_both(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    logs = here.up(profile, "--run-id", "new").outcome["logs"]
    events = here.remote("new", "events.jsonl")
    events.write_text(events.read_text().replace('"format":2', '"format":7'))
    for path in Path(logs["core"]).parent.glob("provision_new_*"):
        path.unlink()

    done = here.run("attach", "new", "--json")

    assert done.code == 2, done.stdout
    assert "format 7" in done.outcome["errors"][0]["message"]
    assert "reads 1 and 2" in done.outcome["errors"][0]["message"]


def test_attach_to_a_finished_run_tells_how_it_ended(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    ended = here.up(profile, "--run-id", "new").outcome

    again = here.run("attach", "new", "--json")

    assert (again.code, again.outcome["verdict"]) == (0, "complete")
    assert again.outcome["downloads"] == ended["downloads"]
    here.assert_mirrored(again.outcome)
