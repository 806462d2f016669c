"""The servers of the built-in profiles, each against a stand-in: how it is started, asked, and given its key.

The programs themselves are not here: a stand-in stands where the profile's command looks for one, listens where that
tells it to, answers where the real one does, and refuses whoever has not got the key.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness.agent_runs import AgentRuns
from provision_collector.demo.instance import free_port
from provision_collector.profile import compile_plan, load_profile

KEY = "a-key-that-nobody-else-has"

STAND_IN = """#!/usr/bin/env python3
import http.server, json, os, shlex, sys
words = sys.argv[1:] + shlex.split(os.environ.get("COMMANDLINE_ARGS", ""))
if words[0] == "pull":
    open("pulled", "w").write(words[1])
    sys.exit(0)
open("seen.json", "w").write(json.dumps({"words": words, "environment": dict(os.environ)}))
options = dict(word.lstrip("-").split("=", 1) for word in words if word.startswith("--") and "=" in word)
options.update((word.lstrip("-"), after) for word, after in zip(words, words[1:]) if word.startswith("--") and "=" not in word)
host, _, port = os.environ.get("OLLAMA_HOST", "").partition(":")
host = host or options.get("host") or options.get("ip") or "127.0.0.1"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_open = self.path in HEALTH
        self.send_response(200 if is_open or KEY in self.headers.get("Authorization", "") else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"version": "1"}).encode())
    def log_message(self, *words):
        pass
KEY = os.environ.get(KEY_NAME, "no key").rpartition(":")[2]
http.server.ThreadingHTTPServer((host, int(port or options["port"])), Handler).serve_forever()
"""


class Server(NamedTuple):
    """Where the stand-in of a profile lies, where it answers without a key, and the name of that key."""

    program: str
    health: str
    key_name: str = ""
    secret: str = KEY


SERVERS = {
    "jupyter": Server("jupyterlab/__main__.py", "/api", "JUPYTER_TOKEN"),
    "vllm": Server("vllm/entrypoints/openai/api_server.py", "/health", "VLLM_API_KEY"),
    "ollama": Server("ollama/bin/ollama", "/api/version"),
    "trainer": Server("tensorboard/main.py", "/data/environment"),
    "forge": Server("forge/launch.py", "/internal/ping", "FORGE_LOGIN", f"me:{KEY}"),
}


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[AgentRuns]:
    made = AgentRuns(tmp_path)
    yield made
    made.stop_services()


@pytest.mark.parametrize("name", SERVERS)
def test_a_built_in_server_starts_answers_and_keeps_its_key(name: str, runs: AgentRuns) -> None:
    server, port = SERVERS[name], free_port()
    plan = compile_plan(load_profile(name, overrides={"port": str(port)})).to_json()
    code = f"HEALTH, KEY_NAME = {[server.health]!r}, {server.key_name!r}\n"
    program = runs.write(server.program, STAND_IN.replace("\nimport", f"\n{code}import", 1))
    program.chmod(0o755)
    secrets = {server.key_name: server.secret} if server.key_name else {}

    told = runs.run({key: plan[key] for key in ("services", "jobs", "secrets")}, secrets)

    assert told.verdict == "complete", told.events[-5:]
    assert told.of("service_ready")[0]["url"] == f"http://127.0.0.1:{port}{server.health}"
    if secrets:
        assert (status(port, ""), status(port, KEY)) == (401, 200)
        assert KEY not in argv_of(runs.status(name))
        assert not [path for path in kept(runs) if KEY in path.read_text(errors="replace")]
    check = CHECKS.get(name)
    if check is not None:
        check(runs)


def has_its_cache(runs: AgentRuns) -> None:
    environment = seen(runs, "seen.json")["environment"]
    assert environment["HF_HOME"] == f"{runs.workspace}/hf"
    assert environment["HF_HUB_OFFLINE"] == "1"


def has_its_model(runs: AgentRuns) -> None:
    assert (runs.workspace / "pulled").read_text() == "qwen3:8b"
    assert seen(runs, "seen.json")["environment"]["OLLAMA_MODELS"] == f"{runs.workspace}/ollama/models"


CHECKS = {"vllm": has_its_cache, "ollama": has_its_model}


def seen(runs: AgentRuns, path: str) -> dict[str, Any]:
    return dict(json.loads((runs.workspace / path).read_text()))


def kept(runs: AgentRuns) -> list[Path]:
    """What the run has left on the disk; the stand-in's own notes apart."""
    return [path for path in runs.workspace.rglob("*") if path.is_file() and path.name != "seen.json"]


def argv_of(status: dict[str, Any]) -> str:
    return Path(f"/proc/{status['child']['pid']}/cmdline").read_text()


def status(port: int, key: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
    return connection.getresponse().status
