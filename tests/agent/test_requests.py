"""What is asked of the agent comes through one door: what does not fit is answered with why, and nothing is done."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from provision_agent.contract.plan import Plan
from provision_agent.host.detach import agent_argv

PLAN: dict[str, Any] = Plan(name="x", workspace="/nonexistent/provision").to_json()
COMMANDS = ("start", "status", "stop", "prune", "facts", "verify", "sources", "audit", "capture")


def asked(command: str, request: bytes, home: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        agent_argv(command),
        input=request,
        capture_output=True,
        env={"HOME": str(home), "PATH": os.defpath},
        timeout=25,
        check=False,
    )


def answer(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    return dict(json.loads(done.stdout.partition(b"provision-answer ")[2]))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_request_that_does_not_parse_is_answered_without_a_traceback(command: str, tmp_path: Path) -> None:
    done = asked(command, b'{"workspace": NaN, "plan": [], "keep": -1, "comfyui": 5, "run": {}}', tmp_path)
    said = answer(done)

    assert done.returncode == 0 and done.stderr == b""
    assert (said["state"], said["class"], said["format"]) == ("failed", "protocol", 2)
    assert "NaN" in said["message"] and said["hint"] and said["retriable"] is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"limits": {"run_s": -1}},
        {"limits": {"files": 1.5}},
        {"limits": {"run_s": 1e12}},
        {"downloads": [{"url": "https://a.org/a", "path": "a", "level": "urgent"}]},
        {"downloads": [{"url": "https://a.org/a", "path": "a", "sha256": "../x"}]},
        {"commands": [{"name": "a", "run": ["a"], "environment": {"A": 5}}]},
        {"format": 7},
        {"name": ["x"]},
    ],
    ids=str,
)
def test_a_plan_that_is_out_of_bounds_begins_nothing(wrong: dict[str, Any], tmp_path: Path) -> None:
    plan = {**PLAN, "workspace": str(tmp_path / "workspace"), **wrong}
    said = answer(asked("start", json.dumps({"run": "r", "plan": plan}).encode(), tmp_path))

    assert (said["state"], said["class"]) == ("failed", "protocol"), said
    assert not (tmp_path / "workspace").exists()


def test_an_old_request_without_what_came_later_is_understood(tmp_path: Path) -> None:
    said = answer(asked("status", b"", tmp_path))
    assert said["runs"] == []
    said = answer(asked("stop", b'{"run": "r", "of_tomorrow": {"deep": [1]}}', tmp_path))
    assert (said["stopped"], said["run"], said["verdict"]) == (False, None, None), "there is no such run"


def test_a_follow_request_that_cannot_be_read_ends_with_a_sentence(tmp_path: Path) -> None:
    done = asked("follow", b'{"nonce": "n", "files": [{"path": 5}]}\n', tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith(b"follow: a follow request that cannot be read") and done.stdout == b""
