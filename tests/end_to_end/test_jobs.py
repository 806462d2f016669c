"""Jobs through the published command: the log is here, the exit status in the verdict, whoever is killed meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness.tcp_proxy import TcpProxy

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
    eventually(lambda: (home / "step1.safetensors").stat().st_size == 100_000, within_s=100)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for role in ("keeper", "agent"):
        os.kill(here.lock()[role]["pid"], signal.SIGKILL)
    (here.instance.workspace / "go1").touch()
    second = here.instance.workspace / "checkpoints" / "step2.safetensors"
    eventually(lambda: second.stat().st_size == 100_000, within_s=100)
    (here.instance.workspace / "go2").write_text("3")
    done = here.run("attach", "a", "--json", "--outputs", "out", within_s=100)

    assert (done.code, done.outcome["verdict"]) == (1, "failed"), done.stdout[-2000:] + done.stderr
    [job] = done.outcome["jobs"]
    assert (job["name"], job["state"], job["exit_status"]) == ("train", "failed", 3)
    assert (home / "step2.safetensors").read_bytes() == second.read_bytes()
    log = Path(done.outcome["logs"]["job-train"])
    assert log.read_text() == here.remote("a", "job-train.log").read_text() == "step 1\nstep 2\n"
    assert here.run("logs", "a", "--job", "train", within_s=100).stdout == "step 1\nstep 2\n"
    here.assert_mirrored(done.outcome)


STEPS = 5
EPOCHS = """
import hashlib, os, pathlib, sys, time
out = pathlib.Path("checkpoints"); out.mkdir(exist_ok=True)
for step in range(5):
    while not pathlib.Path(f"go{step}").exists():
        time.sleep(0.02)
    data = os.urandom(300_000)
    with open(out / f"step{step}.safetensors", "wb") as file:
        for at in range(0, len(data), 100_000):
            file.write(data[at : at + 100_000]); file.flush(); time.sleep(0.02)
    print(step, hashlib.sha256(data).hexdigest(), flush=True)
sys.exit(5)
"""
ENDS = "import os; home = os.listdir(%r); open('hook', 'a').write(os.environ['PROVISION_KEY'] + ' ' + ' '.join(sorted(each for each in home if each.startswith('step'))) + chr(10))"
KILLED = """
version: 1
name: killed
files: [{path: train.py, content: %s}]
jobs: [{name: train, run: [python3, train.py], level: critical}]
outputs: [{path: checkpoints, to: home}]
on_failure: {run: [python3, -c, %s]}
"""


def one_of(holder: dict[str, Any], roles: tuple[str, ...]) -> Any:
    """The first of *roles* that the lock names."""
    return next((holder[role] for role in roles if holder.get(role)), None)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 22))])
def test_whatever_is_killed_meanwhile_all_is_home_before_the_hook_and_its_end_is_known(
    here: Here, seed: int
) -> None:
    chosen, home = random.Random(seed), here.folder / "out" / "home"
    words = (json.dumps(EPOCHS), json.dumps(ENDS % str(home)))
    where = here.instance.workspace
    with TcpProxy((here.instance.host, here.instance.port)) as proxy:
        way = here.connection(port=proxy.port)
        outputs = ("--json", "--outputs", "out")
        child = here.spawn_up(
            here.profile(KILLED % words), "--run-id", "a", "--outputs", "out", connection=way
        )
        log = here.remote("a", "job-train.log")
        eventually(log.exists, within_s=100)
        for step in range(STEPS):
            (where / f"go{step}").touch()
            eventually(lambda step=step: len(log.read_text().splitlines()) > step, within_s=100)
            what = chosen.choice(("agent", "keeper", "this side", "connection"))
            if what in ("agent", "keeper"):
                other = "agent" if what == "keeper" else "keeper"  # an agent whose keeper died goes on alone
                found = eventually(lambda at=(what, other): one_of(here.lock(), at), within_s=100)
                with suppress(ProcessLookupError):
                    os.kill(found["pid"], signal.SIGKILL)
            elif what == "connection":
                proxy.cut()
            else:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                child = here.spawn("attach", "a", *outputs)
        done = here.finish(child, within_s=300)
    eventually((where / "hook").exists, within_s=100)

    assert (done.code, done.outcome["verdict"]) == (1, "failed"), done.stdout[-2000:] + done.stderr
    assert done.outcome["jobs"][0]["exit_status"] == 5
    told = dict(line.split() for line in log.read_text().splitlines())
    found = {
        str(step): hashlib.sha256((home / f"step{step}.safetensors").read_bytes()).hexdigest()
        for step in range(STEPS)
    }
    assert found == told
    everything = " ".join(f"step{step}.safetensors" for step in range(STEPS))
    assert set((where / "hook").read_text().splitlines()) == {f"a:on_failure {everything}"}
