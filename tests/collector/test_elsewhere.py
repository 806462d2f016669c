"""Where POSIX-only modules are missing, profiles can be checked and planned all the same."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

ELSEWHERE = """
import importlib.abc, os, select, sys

MISSING = {"fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
for name in MISSING:
    sys.modules.pop(name, None)
for home, names in ((os, ("fork", "geteuid", "getuid", "killpg", "setsid", "statvfs")), (select, ("epoll", "poll"))):
    for name in names:
        if hasattr(home, name):
            delattr(home, name)

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in MISSING:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Missing())
"""
PROVISION = "from provision_collector.cli import main; main(sys.argv[1:])"
AGENT = "from provision_agent.__main__ import main; sys.exit(main(sys.argv[1:]))"
PROFILE = """version: 1
name: elsewhere
downloads:
  - {url: "http://127.0.0.1:9/model.safetensors", path: models/, level: critical}
"""


def elsewhere(program: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE + program, *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        check=False,
        timeout=60,
    )


COMMANDS = {
    "help": ("--help",),
    "help of every command": ("up", "--help"),
    "the list of profiles": ("profiles", "list"),
    "a built-in profile": ("profiles", "show", "comfyui"),
    "the schema": ("profiles", "schema"),
    "the schema of events": ("profiles", "schema", "--events"),
    "check": ("check", "PROFILE"),
    "check of a built-in profile": ("check", "comfyui", "--json"),
    "a profile of a workflow": ("profiles", "from-workflow", "WORKFLOW"),
    "a profile of a script": ("profiles", "import", "SCRIPT"),
    "plan without asking": ("plan", "PROFILE", "--offline"),
    "plan": ("plan", "PROFILE", "--json"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_profiles_are_checked_and_planned_without_posix_modules(name, tmp_path):
    files = {"PROFILE": tmp_path / "a.yaml", "WORKFLOW": tmp_path / "a.json", "SCRIPT": tmp_path / "a.sh"}
    files["PROFILE"].write_text(PROFILE)
    files["WORKFLOW"].write_text('{"1": {"class_type": "KSampler", "inputs": {}}}')
    files["SCRIPT"].write_text("wget -O /workspace/a.bin http://127.0.0.1:9/a.bin\n")

    done = elsewhere(PROVISION, *(str(files.get(word, word)) for word in COMMANDS[name]))

    expected = 1 if name == "plan" else 0  # its only source cannot be reached
    assert (done.returncode, "Traceback" in done.stderr) == (expected, False), done.stderr
    assert done.stdout


def test_the_agent_asks_sources_without_posix_modules(tmp_path):
    from provision_collector.profile import compile_plan, load_profile

    profile = tmp_path / "elsewhere.yaml"
    profile.write_text(PROFILE)
    plan = compile_plan(load_profile(str(profile))).to_json()
    request = {"plan": plan, "secrets": {}, "is_instance": False}

    done = elsewhere(AGENT, "sources", stdin=json.dumps(request))

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout[done.stdout.index("{") :])
    assert answer["downloads"][0]["sources"][0]["class"] == "unreachable"


def test_what_reaches_an_instance_says_where_it_works():
    done = elsewhere(PROVISION, "status", "--host", "127.0.0.1:9")

    assert done.returncode == 2
    assert "Linux, macOS and WSL" in done.stderr
    assert "Traceback" not in done.stderr
