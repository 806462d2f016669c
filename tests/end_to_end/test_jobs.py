"""Jobs through the published command: the log is here, the exit status in the verdict, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from .conftest import Here, eventually

pytestmark = pytest.mark.timeout(240)

TRAIN = """
import pathlib, sys, time
out = pathlib.Path("checkpoints"); out.mkdir(exist_ok=True)
for step in (1, 2):
    print(f"step {step}", flush=True)
    (out / f"step{step}.safetensors").write_bytes(bytes([step]) * 100_000)
    while not pathlib.Path(f"go{step}").exists():
        time.sleep(0.02)
sys.exit(int(pathlib.Path("go2").read_text()))
"""
PROFILE = """
version: 1
name: trains
limits: {run: 90s}
files:
  - {path: train.py, content: %s, level: critical}
jobs:
  - {name: train, run: [python3, train.py], level: critical}
outputs:
  - {path: checkpoints, to: home}
"""


def test_a_job_goes_on_while_both_sides_are_killed_and_all_of_it_is_here_at_the_end(here: Here) -> None:
    profile = here.profile(PROFILE % json.dumps(TRAIN))
    home = here.folder / "out" / "home"
    child = here.spawn_up(profile, "--run-id", "a", "--outputs", "out")
    eventually(lambda: (home / "step1.safetensors").stat().st_size == 100_000, within_s=60)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for role in ("keeper", "agent"):
        os.kill(here.lock()[role]["pid"], signal.SIGKILL)
    (here.instance.workspace / "go1").touch()
    second = here.instance.workspace / "checkpoints" / "step2.safetensors"
    eventually(lambda: second.stat().st_size == 100_000)
    (here.instance.workspace / "go2").write_text("3")
    done = here.run("attach", "a", "--json", "--outputs", "out", within_s=100)

    assert (done.code, done.outcome["verdict"]) == (1, "failed"), done.stdout[-2000:] + done.stderr
    [job] = done.outcome["jobs"]
    assert (job["name"], job["state"], job["exit_status"]) == ("train", "failed", 3)
    assert (home / "step2.safetensors").read_bytes() == second.read_bytes()
    log = Path(done.outcome["logs"]["job-train"])
    assert log.read_text() == here.remote("a", "job-train.log").read_text() == "step 1\nstep 2\n"
    assert here.run("logs", "a", "--job", "train").stdout == "step 1\nstep 2\n"
    here.assert_mirrored(done.outcome)
