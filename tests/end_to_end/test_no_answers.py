"""What an instance says that no agent says: a watched run is lost, a command that asked ends with 1, and nobody crashes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from harness.hostile import HostileInstance, event_line
from provision_agent.contract import frames
from provision_collector import Profile, start

from .conftest import PROVISION

pytestmark = pytest.mark.usefixtures("own_state")

PROFILE = "{version: 1, name: p, checks: [{name: c, path: x, level: critical}]}"
FRAMES: dict[str, bytes] = {
    "a beat without sizes": frames.pack(frames.BEAT, 0, {}),
    "a beat of words": frames.pack(frames.BEAT, 0, {"sizes": ["x", {}, []]}),
    "a beat of two files": frames.pack(frames.BEAT, 0, {"sizes": [1, 2]}),
    "a status that is text": frames.pack(frames.STATUS, 0, {"run": ["r"], "keeper": "yes"}),
    "an inode that no file has": frames.pack(frames.RESUMED, 0, {"resumed": True, "ino": 1 << 64}),
    "a time that is an object": frames.pack(frames.GENERATION, 0, {"generation": 1, "at": {"a": 1}}),
    "a cause that is an object": frames.pack(frames.ERROR, 0, {"cause": {"a": 1}}),
    "a file that is not followed": frames.pack(frames.GENERATION, 200, {"generation": 1}),
    "a frame that is none": b"Z\0\0\0\0\0",
}
ANSWERS: dict[str, dict[str, Any]] = {
    "status": {"runs": [{"run": "r", "state": 5, "errors": [], "downloads": {}}]},
    "stop": {"stopped": "yes"},
    "prune": {"removed": {"a": 1}},
    "verify": {"passed": ["a check of nobody"], "failed": []},
    "audit": {"workspace": "/w", "items": [{"item": "x"}], "extra": []},
    "plan": {"downloads": [], "repos": []},
    "capture": {"comfyui": ["/x"]},
}
WORDS = {
    "verify": ("--profile", "p.yaml"),
    "audit": ("--profile", "p.yaml"),
    "plan": ("p.yaml",),
}
ASKED = {"plan": "sources"}
SUBCOMMANDS = {"capture": ("profiles", "capture")}


@pytest.mark.parametrize("said", FRAMES)
async def test_a_frame_that_no_follower_sends_ends_the_watching_of_the_run(tmp_path: Path, said: str) -> None:
    class Liar(HostileInstance):
        def first_frames(self) -> bytes:
            return FRAMES[said]

    async with Liar(tmp_path / "there", events=event_line(1, "run_started", name="x")) as there:
        profile = Profile.from_text(PROFILE, name="p.yaml")
        async with await start(there.instance, profile, logs_dir=tmp_path / "logs") as run:
            outcome = await asyncio.wait_for(run.outcome(), 20)

    assert (outcome["verdict"], outcome["exit_code"], outcome["next"]) == (
        "agent-lost",
        14,
        "replace_instance",
    )
    assert [error["class"] for error in outcome["errors"]] == ["protocol"]
    assert outcome["reconnects"] == 2, "once may be noise of a login shell"


@pytest.mark.parametrize("asked", ANSWERS)
async def test_an_answer_that_no_agent_gives_ends_the_command_with_one_sentence(
    tmp_path: Path, asked: str
) -> None:
    (tmp_path / "p.yaml").write_text(PROFILE)
    async with HostileInstance(
        tmp_path / "there", answers={ASKED.get(asked, asked): ANSWERS[asked]}
    ) as there:
        child = await asyncio.create_subprocess_exec(
            PROVISION,
            *SUBCOMMANDS.get(asked, (asked,)),
            *there.options,
            *WORDS.get(asked, ()),
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(25):
            _, err = await child.communicate()

    said = err.decode()
    assert child.returncode == 1, said
    assert "the instance says what cannot be understood" in said
    assert "replace the instance" in said and "Traceback" not in said
    assert json.dumps(ANSWERS[asked]) not in said
