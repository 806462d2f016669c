"""A whole instance: packages, torch, a node with its requirements, a model, a service, all in one `up`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.content import Content
from harness.file_server import FileServer
from harness.git_server import GitServer, Origin, git
from harness.package_index import PackageIndex

from .conftest import Child, Here, eventually
from .test_up import free_port

SIZE = 2 << 20


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        index.add_torch("2.9.1+cpu")
        for name, version in (("numpy", "2.1"), ("einops", "0.8"), ("numpy", "1.0"), ("face-models", "3")):
            index.add(name, version)
        yield index


@pytest.fixture
def instance_environment(index: PackageIndex) -> dict[str, str]:
    return index.environment


def profile_of(files: FileServer, node: str, commit: str) -> str:
    repo = f'{{url: "{node}", path: ComfyUI, ref: {commit}, install: node/requirements.txt, level: critical}}'
    return profile_with(files, repo)


def profile_with(files: FileServer, *repos: str, head: str = "") -> str:
    lines = "\n".join(f"  - {repo}" for repo in repos)
    content = Content.safetensors(SIZE, seed=1)
    files.add("/m.safetensors", content)
    port = free_port()
    return f"""
version: 1
name: whole
{head}
limits: {{run: 2m}}
python:
  layers:
    - [numpy]
    - torch: {{version: [2.9.1], accelerator: cpu}}
    - requirements: ComfyUI/requirements.txt
  protect: [torch, numpy]
repos:
{lines}
downloads:
  - {{url: "{files.url("/m.safetensors")}", path: ComfyUI/models/m.safetensors, sha256: {content.sha256}, level: critical}}
checks:
  - {{name: Torch, imports: [torch, numpy, einops], level: critical}}
  - {{name: Node, path: ComfyUI/main.py, level: critical}}
services:
  - name: comfyui
    run: [python, main.py, "{port}"]
    directory: ComfyUI
    ready: {{url: "http://127.0.0.1:{port}/system_stats", within: 20s, json: {{devices: not_empty}}}}
    level: critical
"""


MAIN = """
import http.server, json, sys, torch, einops
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"devices": [{"name": torch.__version__, "vram_total": 1}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_everything_that_a_service_needs_is_installed_and_it_answers(
    here: Here, files: FileServer, tmp_path: Path
) -> None:
    origin = Origin(str(tmp_path / "origins" / "node"))
    requirements = {
        "requirements.txt": "numpy",
        "node/requirements.txt": "einops\nnumpy==1.0",
    }  # no newline at the end
    commit = origin.commit({"main.py": MAIN, **requirements})
    with GitServer(str(tmp_path / "origins")) as server:
        profile = here.profile(profile_of(files, server.smart("node"), commit))
        child = here.spawn_up(profile, "--run-id", "whole")
        eventually(lambda: "package_started" in here.said(child), within_s=40)
        os.kill(here.lock()["agent"]["pid"], signal.SIGKILL)  # in the middle of an install

        done = here.finish(child, within_s=80)

    # the node wants another numpy than the one that is protected: left out and named, and torch's stays
    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout[-3000:]
    [warning] = done.outcome["warnings"]
    assert warning.startswith("ComfyUI/node/requirements.txt:2: `numpy==1.0` is left out: ")
    commit = origin.commit({"node/requirements.txt": "einops"})
    with GitServer(str(tmp_path / "origins")) as server:
        done = here.finish(
            here.spawn_up(here.profile(profile_of(files, server.smart("node"), commit))), within_s=80
        )

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout[-3000:]
    assert done.outcome["services"][0]["state"] == "ready"
    started = [
        line["event"]
        for line in done.lines
        if line["event"] in ("repo_started", "package_started", "download_started", "download_skipped")
    ]
    assert "repo_started" in started
    here.assert_mirrored(done.outcome)


@pytest.fixture
def origins(tmp_path: Path) -> Iterator[GitServer]:
    """An application and a node of it, with what they need."""
    root = tmp_path / "origins"
    application = {"main.py": MAIN, "requirements.txt": "einops", "folder_paths.py": "import einops\n"}
    Origin(str(root / "ComfyUI")).commit(application)
    node = {"__init__.py": "import folder_paths\nimport face_models\n", "requirements.txt": "# face-models\n"}
    Origin(str(root / "faces")).commit(node)
    with GitServer(str(root)) as server:
        yield server


def node_profile(files: FileServer, origins: GitServer, *, head: str = "") -> str:
    """The node stands before its application: it is imported when that has got what it needs."""
    node = f'{{url: "{origins.smart("faces")}", path: ComfyUI/custom_nodes/faces, install: requirements.txt, level: critical}}'
    application = (
        f'{{url: "{origins.smart("ComfyUI")}", path: ComfyUI, install: requirements.txt, level: critical}}'
    )
    return profile_with(files, node, application, head=head)


@pytest.mark.timeout(180)
def test_a_node_that_does_not_import_is_named_where_its_service_says_nothing_of_it(
    here: Here, files: FileServer, origins: GitServer
) -> None:
    done = here.finish(here.spawn_up(here.profile(node_profile(files, origins))), within_s=55)

    assert done.code == 1, done.stdout[-3000:]
    (error,) = done.outcome["errors"]
    assert error["item"] == "ComfyUI/custom_nodes/faces/__init__.py"
    assert "there is no module `face_models`, and no requirements file of it asks for one" in error["message"]
    assert done.outcome["services"][0]["state"] == "ready", "it was tried when that had been started"


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 22))]
KILLS = 3
"""As often as a keeper starts an agent again."""


@pytest.mark.timeout(240)
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_an_agent_killed_at_any_moments_is_started_again_and_completes(
    seed: int, here: Here, files: FileServer, origins: GitServer, tmp_path: Path
) -> None:
    faces = Path(tmp_path, "origins", "faces")
    (faces / "requirements.txt").write_text("face-models")
    git(str(faces), "commit", "--quiet", "--all", "--message=more")
    moments = random.Random(seed)
    profile = here.profile(node_profile(files, origins))

    child = here.spawn_up(profile, "--run-id", "kills", "--kill-holders")
    for _ in range(KILLS):
        kill_agent_soon(here, child, events=moments.randint(1, 25))
    first = here.finish(child, within_s=100)
    again = here.finish(here.spawn_up(profile), within_s=50)

    assert (first.code, first.outcome["verdict"]) == (0, "complete"), first.stdout[-3000:]
    here.assert_mirrored(first.outcome)
    assert (again.code, again.outcome["verdict"]) == (0, "complete"), again.stdout[-3000:]
    assert [fields["adopted"] for fields in again.named("service_started")] == [True]
    assert again.named("download_finished") == []
    assert "torch" not in [line["item"] for line in again.named("package_finished")]


def kill_agent_soon(here: Here, child: Child, *, events: int) -> None:
    """Wait for an agent and for so many more events of it, and kill it; nothing once the run is over."""

    def is_over() -> bool:
        return child.poll() is not None

    agent = eventually(lambda: here.lock()["agent"] or is_over(), within_s=30)
    moment = len(here.agent_events("kills")) + events
    eventually(lambda: len(here.agent_events("kills")) >= moment or is_over(), within_s=60)
    if not is_over():
        os.kill(agent["pid"], signal.SIGKILL)
        eventually(lambda: is_over() or here.lock()["agent"] != agent, within_s=30)


HOLDER = """
import pathlib, signal, subprocess, sys
def let_go(*_):
    subprocess.run(["chattr", "-i", "a.py"])
    sys.exit()
signal.signal(signal.SIGTERM, let_go)
pathlib.Path("a.py").touch()
print(subprocess.run(["chattr", "+i", "a.py"]).returncode, flush=True)
signal.pause()
"""


@pytest.mark.timeout(180)
def test_who_holds_a_broken_environment_is_ended_when_the_caller_asked_for_it(here: Here) -> None:
    venv = here.instance.workspace / "venv"
    venv.mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], cwd=venv, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != b"0":
            pytest.skip("this file system or user cannot make a file immutable")
        profile = here.profile("version: 1\nname: venv\npython: {installer: pip, layers: [[einops]]}\n")
        done = here.finish(here.spawn_up(profile, "--kill-holders"), within_s=50)
        status = holder.poll()
    finally:
        holder.terminate()
        holder.communicate(timeout=10)

    assert (done.code, status) == (0, 0), done.stdout[-3000:]
    assert any(f"({holder.pid}) held" in warning for warning in done.outcome["warnings"])
