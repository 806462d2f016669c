"""A running ComfyUI decides: which nodes it loaded, what it offers, and when it has to be started anew."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import comfyui_stand_in
from harness.agent_runs import PROGRAM, AgentRuns, finished, told_so_far, until
from harness.environments import Surroundings, copy_of_environment
from harness.file_server import Content, Fault, FileServer
from harness.git_server import Origin
from provision_agent.contract.parsing import parse
from provision_agent.contract.plan import Service
from provision_agent.run.context import Context
from provision_agent.services import handover, manager, restarting
from provision_agent.services.wait_ready import wait_ready

pytestmark = pytest.mark.timeout(240)  # whole runs, several of them a test

NODES = "ComfyUI/custom_nodes"
GOOD = "class Face: pass\nNODE_CLASS_MAPPINGS = {'FaceSwap': Face}\n"
BROKEN = "import a_package_that_nobody_installed\n"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def runs(runs: AgentRuns) -> AgentRuns:
    runs.write("ComfyUI/main.py", Path(comfyui_stand_in.__file__).read_text())
    for folder in ("checkpoints", "loras"):
        (runs.workspace / "ComfyUI/models" / folder).mkdir(parents=True)
    (runs.workspace / "state").mkdir()
    return runs


def comfyui(port: int, **fields: Any) -> dict[str, Any]:
    ready = {"url": f"http://127.0.0.1:{port}/system_stats", "within_s": 60, "successes": 1}
    words = ["main.py", "--port", str(port), "--state", "../state"]
    about = {"name": "comfyui", "run": [sys.executable, *words], "directory": "ComfyUI", "level": "critical"}
    return {**about, "ready": ready, **fields}


def node(tmp_path: Path, code: str, *, name: str = "faces", level: str = "required") -> dict[str, Any]:
    origin = Origin(str(tmp_path / "origins" / name))
    origin.commit({"__init__.py": code})
    return {"url": origin.url, "path": f"{NODES}/{name}", "level": level}


def starts(runs: AgentRuns) -> int:
    """How often the stand-in was started and asked for something."""
    return len(list((runs.workspace / "state").iterdir()))


@pytest.mark.parametrize(
    ("level", "verdict", "is_usable"),
    [("critical", "failed", False), ("required", "incomplete", True), ("optional", "complete", True)],
)
def test_a_node_that_the_running_comfyui_cannot_import_counts_at_its_own_level(
    level: str, verdict: str, is_usable: bool, runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    told = runs.run({"repos": [node(tmp_path, BROKEN, level=level)], "services": [comfyui(port)]})

    assert told.verdict == verdict
    (failed,) = told.of("package_failed")
    assert failed["item"] == f"{NODES}/faces/__init__.py"
    assert (failed["class"], failed["level"]) == ("node_import", level)
    assert "No module named 'a_package_that_nobody_installed'" in failed["message"]
    assert bool(told.of("run_usable")) == is_usable


def test_a_node_that_another_start_mends_holds_in_the_end(runs: AgentRuns, tmp_path: Path, port: int) -> None:
    """It loads with a file of the profile that comes after the start."""
    code = "open(__file__.replace('__init__.py', 'settings.json')).close()\n" + GOOD
    settings = {"path": f"{NODES}/faces/settings.json", "content": "{}", "level": "required"}
    repo = node(tmp_path, code, level="required")

    told = runs.run({"repos": [repo], "files": [settings], "services": [comfyui(port)]})

    assert (told.verdict, len(told.of("service_restarted"))) == ("complete", 1)
    assert told.of("package_finished", f"{NODES}/faces/__init__.py") != []


@pytest.mark.parametrize("level", ["critical", "required"])
def test_nodes_are_there_before_their_service_starts(
    level: str, runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    checks = [{"name": "faces", "service": "comfyui", "nodes": ["FaceSwap", "KSampler"], "level": level}]
    repos = [node(tmp_path, GOOD, level=level)]

    told = runs.run({"repos": repos, "services": [comfyui(port)], "checks": checks})

    assert told.verdict == "complete"
    assert told.index("repo_finished") < told.index("service_started")
    assert told.of("service_restarted") == [], "once is enough"
    (passed,) = told.of("check_passed")
    assert passed["found"] == "2 classes of custom_nodes.faces, nodes"


def test_checks_of_a_service_follow_its_ready_and_usable_follows_them(
    runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    runs.write("ComfyUI/models/loras/style.safetensors", "x")
    offered = {
        "nodes": ["KSampler"],
        "models": ["ComfyUI/models/loras/style.safetensors", "loras/style.safetensors"],
    }
    checks = [
        {"name": "there", "service": "comfyui", "level": "critical", **offered},
        {
            "name": "not there",
            "service": "comfyui",
            "nodes": ["NoSuchNode", "KSampler"],
            "models": ["vae/none.pt"],
        },
    ]

    told = runs.run({"services": [comfyui(port)], "checks": checks})

    assert told.verdict == "incomplete"
    order = [told.index("service_ready"), told.index("check_passed", "there"), told.index("run_usable")]
    assert order == sorted(order)
    (failed,) = told.of("check_failed")
    assert "does not offer the class `NoSuchNode` in /object_info" in failed["message"]
    assert "does not list the model `vae/none.pt`" in failed["message"]
    assert failed["found"] == "1 of 3"


def test_a_critical_class_that_is_not_offered_makes_nothing_usable(
    runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    checks = [{"name": "faces", "service": "comfyui", "nodes": ["FaceSwap"], "level": "critical"}]

    told = runs.run({"services": [comfyui(port)], "checks": checks})

    assert (told.verdict, told.of("run_usable")) == ("failed", [])


def test_a_node_of_a_later_run_starts_the_service_anew_once(
    runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    plan = {"services": [comfyui(port)], "checks": []}
    first = runs.run(plan)
    with_node = {
        **plan,
        "repos": [node(tmp_path, GOOD)],
        "checks": [{"name": "faces", "service": "comfyui", "nodes": ["FaceSwap"]}],
    }

    second, third = runs.run(with_node), runs.run(with_node)

    assert [each.verdict for each in (first, second, third)] == ["complete"] * 3
    (restarted,) = second.of("service_restarted")
    assert restarted["reason"] == f"changed since its start: repository {NODES}/faces"
    assert [each["adopted"] for each in third.of("service_started")] == [True]
    assert third.of("service_restarted") == []


def test_a_node_that_was_mended_by_hand_is_loaded_by_the_next_run(
    runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    """Nothing of the plan has changed; but what the service could not import it could import now."""
    copy_of_environment(str(tmp_path / "venv"))
    program = ["python", *comfyui(port)["run"][1:]]
    plan = {
        "repos": [node(tmp_path, "import helper_of_faces\n" + GOOD)],
        "services": [comfyui(port, run=program)],
        "python": {"venv": str(tmp_path / "venv"), "installer": "pip"},
    }
    first = runs.run(plan)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "helper_of_faces.py").write_text("")

    second = runs.run(plan)

    assert (first.verdict, second.verdict) == ("incomplete", "complete")
    (failed,) = first.of("package_failed")
    assert "add the package that has `helper_of_faces`" in failed["hint"], "its import tells what is missing"
    assert len(second.of("service_restarted")) == 1


@pytest.mark.parametrize("path", ["/queue", "/"])
def test_a_comfyui_is_known_by_what_it_answers_wherever_its_program_lies(
    path: str, runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    """It runs in the workspace, and `ready` asks for another address than usual."""
    words = ["ComfyUI/main.py", "--port", str(port), "--state", "state"]
    ready = {"url": f"http://127.0.0.1:{port}{path}", "within_s": 60, "successes": 1}
    service = comfyui(port, run=[sys.executable, *words], directory=".", ready=ready)
    plan = {"services": [service]}
    runs.run(plan)

    check = {"name": "faces", "service": "comfyui", "nodes": ["FaceSwap"]}
    told = runs.run({**plan, "repos": [node(tmp_path, GOOD)], "checks": [check]})

    assert (told.verdict, len(told.of("service_restarted"))) == ("complete", 1)


def test_a_service_that_does_not_say_what_it_does_is_not_started_anew(runs: AgentRuns) -> None:
    runs.write("api/main.py", "import time; time.sleep(600)")
    service = {"name": "api", "run": [sys.executable, "main.py"], "directory": "api"}
    files = [{"path": "api/settings.json", "content": "{}", "level": "required"}]

    told = runs.run({"services": [service], "files": files})
    again = runs.run({"services": [service], "files": [{**files[0], "content": "{ }"}]})

    assert (told.verdict, told.of("service_restarted")) == ("complete", [])
    (warning,) = told.of("warning")
    assert "`api` was not started anew, changed since its start: file api/settings.json" in warning["message"]
    assert "`provision services restart api --run r1`" in warning["message"], (
        "it may read its files by itself"
    )
    assert (again.of("warning"), again.of("service_restarted")) == ([], []), "it was said once"


def test_a_service_that_a_killed_agent_held_still_goes_on_with_the_next_run(
    runs: AgentRuns, port: int
) -> None:
    plan = {"services": [comfyui(port)]}
    runs.run(plan)
    os.killpg(runs.status("comfyui")["child"]["pid"], signal.SIGSTOP)

    assert runs.run(plan).verdict == "complete"


def test_verify_asks_the_service_that_runs(runs: AgentRuns, tmp_path: Path, port: int) -> None:
    checks = [{"name": name, "service": "comfyui", "nodes": [name]} for name in ("KSampler", "FaceSwap")]
    plan = {
        "format": 2,
        "name": "x",
        "workspace": str(runs.workspace),
        "services": [comfyui(port)],
        "checks": checks,
    }
    runs.run({"services": [comfyui(port)]})
    files = sorted(runs.workspace.rglob("*"))

    answer = runs.ask("verify", {"plan": plan})

    assert answer["passed"] == ["KSampler"]
    assert [failed["item"] for failed in answer["failed"]] == ["FaceSwap"]
    assert sorted(runs.workspace.rglob("*")) == files, "it changes nothing"


def files_after_usable(content: str) -> list[dict[str, Any]]:
    return [{"path": "ComfyUI/extra_model_paths.yaml", "content": content, "level": "required"}]


def test_a_file_that_changes_after_the_start_starts_the_service_anew_and_an_equal_one_does_not(
    runs: AgentRuns, port: int
) -> None:
    plan = {"services": [comfyui(port)], "files": files_after_usable("one: {}")}
    first, second = runs.run(plan), runs.run(plan)
    plan["files"] = files_after_usable("two: {}")
    third = runs.run(plan)

    restarted = [
        [event["reason"] for event in told.of("service_restarted")] for told in (first, second, third)
    ]
    reason = "changed since its start: file ComfyUI/extra_model_paths.yaml"
    assert restarted == [[reason], [], [reason]]
    assert {told.verdict for told in (first, second, third)} == {"complete"}


class Traffic:
    """Somebody who sends prompts, one after the other, until told to stop, and counts those that were taken."""

    def __init__(
        self, port: int, *, seconds: float, most: int = 10**6, pause_s: float = 0.0, until: Path | None = None
    ) -> None:
        self._url = f"http://127.0.0.1:{port}/prompt"
        asked = {"seconds": seconds, **({"until": str(until)} if until else {})}
        self._body = json.dumps({"prompt": asked, "client_id": "test"}).encode()
        self._most = most
        self._pause_s = pause_s
        self._is_told = threading.Event()
        self.taken: list[str] = []
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        while len(self.taken) < self._most and not self._is_told.is_set():
            request = urllib.request.Request(self._url, self._body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    self.taken.append(json.loads(answer.read())["prompt_id"])
                time.sleep(self._pause_s * random.random())
            except (http.client.HTTPException, OSError, ValueError):
                time.sleep(
                    0.02
                )  # it is not there, or just then being started: nobody was told that it was taken

    def wait(self) -> None:
        """Until the most were taken."""
        self._thread.join(timeout=60)

    def stop(self) -> None:
        """Send nothing more."""
        self._is_told.set()
        self._thread.join(timeout=30)


def done_of(runs: AgentRuns) -> set[str]:
    lines = [line for path in (runs.workspace / "state").iterdir() for line in path.read_text().splitlines()]
    return {line.split()[1] for line in lines if line.startswith("done ")}


def lost(runs: AgentRuns, traffic: Traffic) -> set[str]:
    """What was taken and is not done, once nothing more can come."""
    taken = set(traffic.taken)
    until(lambda: taken <= done_of(runs) or not still_busy(runs))
    return taken - done_of(runs)


def still_busy(runs: AgentRuns) -> bool:
    newest = max((runs.workspace / "state").iterdir())
    lines = newest.read_text().splitlines()
    return len([line for line in lines if line.startswith("accepted")]) > len(
        [line for line in lines if line.startswith("done")]
    )


@pytest.fixture
def slow_models() -> Iterator[list[dict[str, Any]]]:
    """Downloads that take about three seconds."""
    with FileServer() as server:
        found = []
        for number in range(3):
            path = f"/{number}.safetensors"
            server.add(path, Content.safetensors(300_000), Fault(slow_after=0, bytes_per_s=100_000))
            found.append({"url": server.url(path), "path": f"ComfyUI/models/checkpoints{path}"})
        yield found


def test_no_prompt_is_lost_where_models_keep_coming_and_a_node_has_changed(
    runs: AgentRuns, tmp_path: Path, port: int, slow_models: list[dict[str, Any]]
) -> None:
    plan = {"services": [comfyui(port)]}
    runs.run(plan)
    go_on = tmp_path / "go"
    traffic = Traffic(port, seconds=0.01, most=100, until=go_on)
    until(lambda: len(traffic.taken) >= 60)

    events = runs.start({**plan, "repos": [node(tmp_path, GOOD)], "downloads": slow_models})
    until(lambda: any(event["event"] == "restart_pending" for event in told_so_far(events)))
    go_on.touch()
    told = finished(events)

    traffic.wait()
    assert told.verdict == "complete"
    assert len(told.of("service_restarted")) == 1
    assert [event["prompts"] > 0 for event in told.of("restart_pending")] == [True]
    assert (len(traffic.taken), lost(runs, traffic)) == (100, set())


def test_models_never_start_a_service_anew(
    runs: AgentRuns, port: int, slow_models: list[dict[str, Any]]
) -> None:
    check = {"name": "all", "service": "comfyui", "models": [item["path"] for item in slow_models]}
    runs.run({"services": [comfyui(port)]})
    traffic = Traffic(port, seconds=0.02, most=100)
    told = runs.run({"services": [comfyui(port)], "downloads": slow_models, "checks": [check]})
    traffic.wait()

    assert told.verdict == "complete"
    assert (told.of("service_restarted"), told.of("restart_pending")) == ([], [])
    assert lost(runs, traffic) == set()
    assert starts(runs) == 1


def test_prompts_that_wait_when_a_busy_service_is_started_anew_are_queued_again_under_their_ids(
    runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    here, service = in_process(runs, port)
    traffic = Traffic(port, seconds=0.4, most=8)
    traffic.wait()

    prompts = restarting.take_down_busy(service, here.context)
    restarting.start_again(service, here.context, None, "a test")
    wait_ready(service, here.context)

    assert len(prompts) >= 2
    assert restarting.send_again(service, here.context) == (len(prompts), len(prompts))
    assert restarting.send_again(service, here.context) == (0, 0)
    assert lost(runs, traffic) == set()


def test_prompts_of_a_service_that_a_killed_agent_took_down_are_queued_again_by_the_next_run(
    runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    here, service = in_process(runs, port)
    traffic = Traffic(port, seconds=0.4, most=5)
    traffic.wait()
    restarting.take_down_busy(service, here.context)

    told = runs.run({"services": [comfyui(port)]})

    assert told.verdict == "complete"
    assert lost(runs, traffic) == set()


def test_no_prompt_slips_into_the_moment_between_the_look_and_the_end(
    runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    """Ended again and again under traffic that leaves the queue empty many times a second."""
    here, service = in_process(runs, port)
    traffic = Traffic(port, seconds=0.001, pause_s=0.3)
    for asked_starts in (1, 2, 3):
        until(lambda wanted=asked_starts: starts(runs) == wanted)
        taken = len(traffic.taken)
        until(lambda before=taken: len(traffic.taken) > before)
        until(lambda: is_taken_down(service, here.context))
        restarting.start_again(service, here.context, None, "a test")
        wait_ready(service, here.context)
    until(lambda: starts(runs) == 4)
    traffic.stop()

    assert lost(runs, traffic) == set()


def is_taken_down(service: Service, context: Context) -> bool:
    """As a run does it: what it was asked a moment ago has its place in the queue by now."""
    first = restarting.load_of(service, context)
    time.sleep(0.05)
    load = restarting.load_of(service, context, first.asked)
    if not load.is_idle or load.asked.times != first.asked.times:
        return False
    return restarting.take_down(service, context, asked=load.asked)


def in_process(runs: AgentRuns, port: int) -> tuple[Surroundings, Service]:
    """The stand-in, started and ready, without a run."""
    here = Surroundings(str(runs.workspace), within_s=100)
    service = parse(Service, comfyui(port), "service")
    manager.start(service, here.context, None)
    wait_ready(service, here.context)
    return here, service


def test_a_service_whose_log_says_that_it_failed_has_failed(runs: AgentRuns, port: int) -> None:
    runs.write(
        f"{NODES}/loud.py", "NODE_CLASS_MAPPINGS = {}\nprint('CUDA error: no kernel image', flush=True)\n"
    )

    told = runs.run({"services": [comfyui(port, log_failures=["no such thing", "CUDA (error|fault)"])]})

    assert told.verdict == "failed"
    (failed,) = told.of("service_failed")
    assert failed["class"] == "service_log"
    assert (
        "says in its log: CUDA error: no kernel image (`log_failures`: `CUDA (error|fault)`)"
        in failed["message"]
    )


CRASHING_ONCE = """
import os, sys
if not os.path.exists("repaired"):
    sys.exit("not repaired")
exec(open("main.py").read())
"""


def test_on_start_failure_runs_once_between_the_first_and_the_second_start(
    runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    runs.write("ComfyUI/first.py", CRASHING_ONCE)
    program = [sys.executable, "first.py", *comfyui(port)["run"][2:]]
    code = "import os; open('repaired', 'a').write(os.environ['TOKEN'] + '\\n')"
    hook = {"run": [sys.executable, "-c", code], "secrets": ["TOKEN"]}
    service = comfyui(port, run=program, restart="on_failure", on_start_failure=hook)

    told = runs.run({"services": [service], "secrets": [{"name": "TOKEN"}]}, {"TOKEN": "t0ken-value"})

    assert told.verdict == "complete"
    assert (runs.workspace / "ComfyUI/repaired").read_text() == "t0ken-value\n"
    assert "not repaired" in told.of("service_progress")[0]["message"]
    assert len(told.of("service_started")) == 2


def test_without_a_repair_the_second_start_is_the_last(runs: AgentRuns, port: int) -> None:
    runs.write("ComfyUI/first.py", "import sys; open('starts', 'a').write('x'); sys.exit('never')")
    program = [sys.executable, "first.py"]
    hook = {"run": [sys.executable, "-c", "open('hooks', 'a').write('x')"]}

    told = runs.run({"services": [comfyui(port, run=program, on_start_failure=hook)]})

    assert told.verdict == "failed"
    assert "never" in told.of("service_failed")[0]["message"]
    assert [(runs.workspace / "ComfyUI" / name).read_text() for name in ("starts", "hooks")] == ["xx", "x"]


SECRETIVE = """
import hashlib, os, sys, time
print("digest", hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest(), flush=True)
time.sleep(600)
"""


def test_the_secrets_of_a_service_are_in_its_environment_and_nowhere_on_the_disk(runs: AgentRuns) -> None:
    runs.write("service.py", SECRETIVE)
    service = {
        "name": "ui",
        "run": [sys.executable, "service.py"],
        "secrets": ["TOKEN"],
        "restart": "on_failure",
    }
    plan = {"services": [service], "secrets": [{"name": "TOKEN"}]}
    value = "t0ken-of-a-service"
    digest = hashlib.sha256(value.encode()).hexdigest()
    log = runs.workspace / ".provision/services/ui.log"

    told = runs.run(plan, {"TOKEN": value})
    until(lambda: digest in log.read_text())
    os.kill(runs.status("ui")["child"]["pid"], signal.SIGKILL)
    until(lambda: log.read_text().count(digest) == 2)

    assert told.verdict == "complete"
    files = [path for path in runs.workspace.rglob("*") if path.is_file()]
    assert [path for path in files if value.encode() in path.read_bytes()] == []
    command = Path(f"/proc/{runs.status('ui')['supervisor']['pid']}/environ").read_bytes()
    assert value.encode() not in command


def test_after_a_reboot_a_service_waits_for_its_secrets_until_the_next_run(runs: AgentRuns) -> None:
    """As an init system starts it then: the same order, and nobody who knows the values."""
    runs.write("service.py", SECRETIVE)
    service = {"name": "ui", "run": [sys.executable, "service.py"], "secrets": ["TOKEN"]}
    plan = {"services": [service], "secrets": [{"name": "TOKEN"}]}
    runs.run(plan, {"TOKEN": "one"})
    runs.stop_services()
    order = runs.workspace / ".provision/services/ui.order.json"
    booted = subprocess.Popen([sys.executable, "-I", "-c", PROGRAM, "supervise", "ui", str(order)])
    until(lambda: runs.status("ui")["state"] == "secrets_needed")

    without = runs.run(plan)
    told = runs.run(plan, {"TOKEN": "two"})

    assert without.verdict == "failed"
    assert "needs `TOKEN`, which is not set" in without.of("service_failed")[0]["message"]
    assert told.verdict == "complete"
    assert runs.status("ui")["supervisor"]["pid"] == booted.pid
    digest = hashlib.sha256(b"two").hexdigest()
    until(lambda: digest in (runs.workspace / ".provision/services/ui.log").read_text())
    runs.stop_services()
    booted.wait(timeout=10)


def test_a_stranger_who_knocks_for_a_service_gives_it_no_secrets(runs: AgentRuns) -> None:
    door = handover.Door()
    given: list[Any] = []
    taking = threading.Thread(target=lambda: given.append(door.take(["TOKEN"])))
    taking.start()
    try:
        assert not handover.give(door.name, 1, {"TOKEN": "x"}), "another process listens there"
        taking.join(timeout=20)
        assert given == [None]
    finally:
        door.close()


SLOW = """
import http.server, sys, time
for number in range(12):
    print("compiling", number, flush=True)
    time.sleep(0.5)
class Handler(http.server.BaseHTTPRequestHandler):
    code = 200
    def do_GET(self):
        self.send_response(200 if len(sys.argv) < 3 else 503); self.send_header("Content-Length", "0"); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_within_counts_from_the_last_growth_of_the_log(runs: AgentRuns, port: int) -> None:
    runs.write("slow.py", SLOW)
    ready = {"url": f"http://127.0.0.1:{port}/health", "within_s": 4.0, "successes": 1}
    service = {"name": "ui", "run": [sys.executable, "-u", "slow.py", str(port)], "ready": ready}

    assert runs.run({"services": [service]}).verdict == "complete"


def test_what_an_access_log_writes_of_our_own_asking_is_no_growth(runs: AgentRuns, port: int) -> None:
    """It answers 503 for ever, and logs every request."""
    runs.write("slow.py", SLOW)
    ready = {"url": f"http://127.0.0.1:{port}/health", "within_s": 4.0, "successes": 1}
    program = [sys.executable, "-u", "slow.py", str(port), "never"]

    told = runs.run({"services": [{"name": "ui", "run": program, "ready": ready, "level": "critical"}]})

    assert told.verdict == "failed"
    assert "answers with 503" in told.of("service_failed")[0]["message"]
    assert "GET /health" in (runs.workspace / ".provision/services/ui.log").read_text()
