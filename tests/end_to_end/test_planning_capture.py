"""From what already runs: an instance is captured, and the profile brings the same bytes to another place."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path

from harness.content import Content
from harness.file_server import Fault, FileServer
from harness.git_server import Origin
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import Here
from .test_up import SIZE, free_port

SERVER = """
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"devices": [1]}')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Page).serve_forever()
"""


def comfyui(here: Here, files: FileServer, tmp_path: Path, port: int) -> tuple[str, Origin]:
    """A profile that brings a small program where ComfyUI would be, a node and a model, and serves it; and the node."""
    program, node = Origin(str(tmp_path / "ComfyUI")), Origin(str(tmp_path / "node"))
    program.commit({"main.py": SERVER, "models/checkpoints/put_here": "", "custom_nodes/.keep": ""})
    node.commit({"__init__.py": "one"})
    files.add("/a.safetensors", Content.safetensors(SIZE))
    files.add("/mirror.safetensors", Content.safetensors(SIZE))
    profile = here.profile(
        f"""version: 1
name: comfy
limits: {{run: 60s, attempts: 2}}
repos:
  - {{url: '{program.url}', path: ComfyUI, level: critical}}
  - {{url: '{node.url}', path: ComfyUI/custom_nodes/node}}
downloads:
  - {{url: '{files.url("/a.safetensors")}', mirrors: ['{files.url("/mirror.safetensors")}'], path: ComfyUI/models/checkpoints/a.safetensors, level: critical}}
services:
  - name: comfyui
    run: [python3, main.py, --port, "{port}"]
    directory: ComfyUI
    ready: {{url: "http://127.0.0.1:{port}/system_stats", within: 20s, successes: 1}}
"""
    )
    return profile, node


def test_a_captured_profile_and_its_lock_bring_the_same_bytes_elsewhere_with_the_first_source_gone(
    here: Here, second: EmbeddedInstance, files: FileServer, tmp_path: Path
) -> None:
    port = free_port()
    workspace = here.instance.workspace
    profile, node = comfyui(here, files, tmp_path, port)
    outcome = here.up(profile)
    assert outcome.code == 0, outcome.stdout
    by_hand, nowhere = Content.safetensors(SIZE, seed=7), Content.safetensors(SIZE, seed=8)
    models = workspace / "ComfyUI/models"
    (models / "loras").mkdir()
    (models / "loras/found.safetensors").write_bytes(by_hand.bytes())
    (models / "loras/unknown.safetensors").write_bytes(nowhere.bytes())
    link = files.add("/found.safetensors", by_hand)
    told = {"files": [{"downloadUrl": link, "hashes": {"SHA256": by_hand.sha256.upper()}}]}
    files.add(f"/api/v1/model-versions/by-hash/{by_hand.sha256}", Content.of(json.dumps(told).encode()))

    where = [
        *here.connection(),
        "--comfyui",
        str(workspace / "ComfyUI"),
        "--catalogue",
        files.url("").rstrip("/"),
    ]
    captured = here.run("profiles", "capture", *where, "--name", "mine", "-o", "mine.yaml", "--json")

    assert captured.code == 0, captured.stderr
    facts = captured.lines[0]
    assert [
        sentence
        for sentence in facts["unresolved"]
        if "loras/unknown" in sentence and nowhere.sha256 in sentence
    ]
    assert not [
        sentence
        for sentence in facts["unresolved"]
        if "loras/found" in sentence or "a.safetensors" in sentence
    ]
    [service] = facts["profile"]["services"]
    assert service["run"] == ["python", "main.py", "--port", str(port)]

    pid = outcome.named("service_started")[0]["pid"]
    os.kill(pid, signal.SIGKILL)  # its port is wanted again
    files.set_faults("/a.safetensors", Fault(status=404))
    node.commit({"__init__.py": "two"})
    words = ["--profile", "./mine.yaml", "--workspace", str(second.workspace), "--locked", "--json"]
    done = here.run("up", *here.connection(to=second), *words)

    assert done.code == 0, done.stdout
    for name in ("checkpoints/a.safetensors", "loras/found.safetensors"):
        assert (second.workspace / "ComfyUI/models" / name).read_bytes() == (models / name).read_bytes()
    assert (second.workspace / "ComfyUI/custom_nodes/node/__init__.py").read_text() == "one"
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/system_stats", timeout=10).status == 200


def test_no_comfyui_is_said_with_the_places_that_were_looked_at(here: Here) -> None:
    done = here.run("profiles", "capture", *here.connection(), "--comfyui", "/nowhere/ComfyUI", "--offline")

    assert done.code == 2
    assert "/nowhere/ComfyUI" in done.stderr and "--comfyui" in done.stderr


def test_up_brings_what_a_workflow_needs_besides_the_profile(here: Here, files: FileServer) -> None:
    content = Content.safetensors(SIZE)
    url = files.add("/lora.safetensors", content)
    model = {
        "name": "lora.safetensors",
        "url": url,
        "directory": "loras",
        "hash": content.sha256,
        "hash_type": "SHA256",
    }
    node = {
        "id": 3,
        "type": "LoraLoader",
        "properties": {"models": [model]},
        "widgets_values": ["other.safetensors", 1],
    }
    (here.folder / "w.json").write_text(json.dumps({"nodes": [node], "links": []}))
    profile = here.profile("version: 1\nname: base\nlimits: {run: 60s}\n")

    planned = here.run("plan", profile, "--workflow", "w.json", "--json").lines[0]
    done = here.up(profile, "--workflow", "w.json")

    assert [file["size_bytes"] for file in planned["files"]] == [SIZE]
    assert done.code == 0, done.stdout
    assert (here.instance.workspace / "ComfyUI/models/loras/lora.safetensors").read_bytes() == content.bytes()
    assert "wants `other.safetensors` and says no source" in done.stderr
