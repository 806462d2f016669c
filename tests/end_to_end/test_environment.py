"""A whole instance: packages, torch, a node with its requirements, a model, a service, all in one `up`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.content import Content
from harness.file_server import FileServer
from harness.git_server import GitServer, Origin
from harness.package_index import PackageIndex

from .conftest import Here, eventually
from .test_up import free_port

SIZE = 2 << 20


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        index.add_torch("2.9.1+cpu")
        for name, version in (("numpy", "2.1"), ("einops", "0.8"), ("numpy", "1.0")):
            index.add(name, version)
        yield index


@pytest.fixture
def instance_environment(index: PackageIndex) -> dict[str, str]:
    return {
        "PIP_INDEX_URL": index.url,
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_CONFIG_FILE": "/dev/null",
    }


def profile_of(files: FileServer, node: str, commit: str) -> str:
    content = Content.safetensors(SIZE, seed=1)
    files.add("/m.safetensors", content)
    port = free_port()
    return f"""
version: 1
name: whole
limits: {{run: 2m}}
python:
  layers:
    - [numpy]
    - torch: {{version: [2.9.1], accelerator: cpu}}
    - requirements: ComfyUI/requirements.txt
  protect: [torch, numpy]
repos:
  - {{url: "{node}", path: ComfyUI, ref: {commit}, install: node/requirements.txt, level: critical}}
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
        body = json.dumps({"devices": [{"name": torch.__version__}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.timeout(90)
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

    # the node wants another numpy than the one that is protected: named, and torch's stays
    assert done.code == 1, done.stdout[-3000:]
    error = done.outcome["errors"][0]
    assert error["item"] == "ComfyUI/node/requirements.txt"
    assert "numpy" in error["message"]
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
