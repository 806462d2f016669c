"""What it takes to give the agent a step: an entry, a dataclass with its field, and a module that does one item."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import provision_agent

MODULE = """
from ..contract.failures import Failure

def do(user, context, venv):
    if user.name == "root":
        raise Failure("conflict", "it is there already")
    with open(context.workspace + "/users", "a") as file:
        file.write(user.name)
"""


def with_users(tmp_path: Path) -> Path:
    """An agent that knows a step more."""
    root = tmp_path / "agent"
    shutil.copytree(Path(provision_agent.__file__).parent, root / "provision_agent")
    package = root / "provision_agent"
    (package / "steps" / "users.py").write_text(MODULE)
    steps, plan = package / "contract" / "steps.py", package / "contract" / "plan.py"
    entry = '    "users": Step("user", "users", "accounts", is_sequential=True),\n    "files": Step('
    steps.write_text(steps.read_text().replace('    "files": Step(', entry, 1))
    text = plan.read_text()
    text = text.replace(
        "@dataclass(frozen=True)\nclass Command(",
        "@dataclass(frozen=True)\nclass User(Named):\n    name: str\n    level: str = level_field()\n\n\n"
        "@dataclass(frozen=True)\nclass Command(",
        1,
    )
    plan.write_text(
        text.replace("    files: Tuple[File", "    users: Tuple[User, ...] = ()\n    files: Tuple[File", 1)
    )
    return root


def finished(events: Path, *, within_s: float = 60.0) -> list[dict[str, Any]]:
    """The events of a run, when it has ended."""
    end = time.monotonic() + within_s
    while True:
        text = events.read_text() if events.exists() else ""  # the agent makes it soon after the answer
        told = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        if told and told[-1]["event"] == "run_finished":
            return told
        assert time.monotonic() < end, told
        time.sleep(0.05)


def test_a_sequential_step_is_an_entry_a_dataclass_and_a_module(tmp_path: Path) -> None:
    root, workspace = with_users(tmp_path), tmp_path / "workspace"
    plan = {
        "format": 2,
        "name": "x",
        "workspace": str(workspace),
        "steps": ["users", "files"],
        "users": [{"name": "ada", "level": "critical"}, {"name": "root", "level": "optional"}],
    }
    program = f"import sys; sys.path.insert(0, {str(root)!r}); from provision_agent.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, "start"],
        input=json.dumps({"run": "r", "plan": plan}).encode(),
        stdout=subprocess.PIPE,
        env={**os.environ, "HOME": str(tmp_path)},
        timeout=20,
        check=True,
    )
    answer = json.loads(done.stdout.partition(b"provision-answer ")[2])
    assert answer["state"] == "started", answer

    told = finished(Path(answer["files"]["events"]))
    names = [event["event"] for event in told]

    assert told[-1]["verdict"] == "complete"
    assert (workspace / "users").read_text() == "ada"
    assert names.count("user_started") == 2 and names.count("user_finished") == 1
    failed = next(event for event in told if event["event"] == "user_failed")
    assert (failed["item"], failed["class"]) == ("root", "conflict")
    step = next(event for event in told if event["event"] == "step_finished" and event["step"] == "users")
    assert (step["ok"], step["failed"]) == (1, 1)
    status = json.loads(Path(answer["files"]["events"]).with_name("status.json").read_text())
    assert status["users"]["ada"]["state"] == "done"
