"""Children of an agent that was killed, with real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness.environments import Surroundings
from provision_agent.host.detach import Identity
from provision_agent.steps import orphans

AGENT = """
import os, signal, subprocess, sys
sys.path[:0] = sys.argv[1:3]
from harness.environments import Surroundings; from provision_agent.host import process
from provision_agent.steps import orphans
marked = process.child_environment(orphans.mark(Surroundings(sys.argv[3]).context))
install = subprocess.Popen(["sh", "-c", "sleep 60; :"], env=marked, stdout=subprocess.DEVNULL, start_new_session=True)
service = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, start_new_session=True)
print(install.pid, service.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    return Surroundings(str(tmp_path / "workspace"))


def test_what_a_killed_agent_was_installing_is_ended_and_its_services_live_on(here: Surroundings) -> None:
    paths = [str(Path(orphans.__file__).parents[2]), str(Path(__file__).parents[1])]
    agent = subprocess.run(
        [sys.executable, "-c", AGENT, *paths, here.workspace], stdout=subprocess.PIPE, timeout=20, check=False
    )
    install, service = (Identity.of(int(pid)) for pid in agent.stdout.split())
    try:
        assert agent.returncode == -signal.SIGKILL
        assert install.is_alive()

        orphans.end(here.context)

        assert not install.is_alive()
        assert service.is_alive()
    finally:
        service.end(within_s=60.0)


def test_ones_own_children_and_those_of_other_workspaces_are_left_alone(
    here: Surroundings, tmp_path: Path
) -> None:
    other = Surroundings(str(tmp_path / "other"))
    mine = subprocess.Popen(["sleep", "60"], env=orphans.mark(here.context))
    # its own parent is gone at once: an orphan, but not of this workspace
    shell = ["sh", "-c", "sleep 60 >/dev/null & echo $!"]
    made = subprocess.run(
        shell,
        env={"PATH": "/usr/bin:/bin", **orphans.mark(other.context)},
        stdout=subprocess.PIPE,
        check=True,
    )
    theirs = Identity.of(int(made.stdout))
    try:
        orphans.end(here.context)

        assert mine.poll() is None
        assert theirs.is_alive()
    finally:
        theirs.end(within_s=60.0)
        mine.kill()
        mine.wait(timeout=10)
