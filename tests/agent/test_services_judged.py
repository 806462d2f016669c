"""A running ComfyUI decides: which nodes it loaded, what it offers, and when it has to be started anew."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import comfyui_stand_in
from harness.agent_runs import AgentRuns, until
from harness.file_server import FileServer
from harness.git_server import Origin

NODES = "ComfyUI/custom_nodes"
GOOD = "class Face: pass\nNODE_CLASS_MAPPINGS = {'FaceSwap': Face}\n"
BROKEN = "import a_package_that_nobody_installed\n"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[AgentRuns]:
    runs = AgentRuns(tmp_path)
    runs.write("ComfyUI/main.py", Path(comfyui_stand_in.__file__).read_text())
    for folder in ("checkpoints", "loras"):
        (runs.workspace / "ComfyUI/models" / folder).mkdir(parents=True)
    (runs.workspace / "state").mkdir()
    yield runs
    runs.stop_services()


def comfyui(port: int, **fields: Any) -> dict[str, Any]:
    ready = {"url": f"http://127.0.0.1:{port}/system_stats", "within_s": 20, "successes": 1}
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
    plan = {
        "repos": [node(tmp_path, "import helper_of_faces\n" + GOOD)],
        "services": [comfyui(port)],
        "python": {"venv": str(tmp_path / "venv")},
    }
    first = runs.run(plan)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "helper_of_faces.py").write_text("")
    plan["services"][0]["run"] = list(plan["services"][0]["run"])

    second = runs.run(plan)

    assert (first.verdict, second.verdict) == ("incomplete", "complete")
    assert len(second.of("service_restarted")) == 1


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
    """Somebody who sends prompts, one after the other, and counts those that were taken."""

    def __init__(self, port: int, count: int, *, seconds: float) -> None:
        self._url = f"http://127.0.0.1:{port}/prompt"
        self._body = json.dumps({"prompt": {"seconds": seconds}, "client_id": "test"}).encode()
        self._count = count
        self.taken: list[str] = []
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        while len(self.taken) < self._count:
            request = urllib.request.Request(self._url, self._body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    self.taken.append(json.loads(answer.read())["prompt_id"])
            except (urllib.error.URLError, OSError, ValueError):
                time.sleep(
                    0.02
                )  # it is not there, or just then being started: nobody was told that it was taken

    def is_over(self) -> bool:
        return not self._thread.is_alive()


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


def models(server: FileServer, count: int) -> list[dict[str, Any]]:
    for number in range(count):
        server.serve(f"/{number}.safetensors", b"x" * 1000)
    folder = "ComfyUI/models/checkpoints"
    return [
        {"url": server.url(f"/{number}.safetensors"), "path": f"{folder}/{number}.safetensors"}
        for number in range(count)
    ]


@pytest.mark.timeout(120)
def test_no_prompt_is_lost_where_models_keep_coming_and_a_node_has_changed(
    runs: AgentRuns, tmp_path: Path, port: int
) -> None:
    plan = {"services": [comfyui(port)]}
    runs.run(plan)
    traffic = Traffic(port, 100, seconds=0.05)
    until(lambda: len(traffic.taken) >= 5)

    told = runs.run({**plan, "repos": [node(tmp_path, GOOD)]}, within_s=100)

    until(traffic.is_over)
    assert told.verdict == "complete"
    assert len(told.of("service_restarted")) == 1
    assert len(told.of("restart_pending")) == 1
    assert told.of("restart_pending")[0]["prompts"] > 0
    assert lost(runs, traffic) == set()
    assert len(traffic.taken) == 100
