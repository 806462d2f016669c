"""A run that waits for a secret gets it through memory alone; nobody who gives one waits for a run that is not there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from provision_agent.commands.query import quiet_context
from provision_agent.contract.messages import SecretsRequest
from provision_agent.contract.plan_parts import When
from provision_agent.run import conditions, late_secrets
from provision_agent.run.workspace import Workspace, resolve


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = resolve(str(tmp_path / "w"), fallback=False)
    os.makedirs(workspace.run_directory("r"), mode=0o700)
    return workspace


def give(workspace: Workspace, **values: str) -> bool:
    return late_secrets._give(SecretsRequest("r", workspace.root, values)).taken


def test_values_reach_the_run_that_asked_and_only_those_that_it_asked_for(workspace: Workspace) -> None:
    path, taken = late_secrets.pipe_of(workspace, "r"), []
    long = "x" * 60_000

    def ask() -> None:
        assert os.stat(path).st_mode & 0o777 == 0o600
        giver = threading.Thread(
            target=lambda: taken.append(give(workspace, HF_TOKEN=long, AWS_SECRET=long)), daemon=True
        )
        giver.start()

    given = late_secrets.awaited(path, ["HF_TOKEN"], ask=ask, wait_s=20.0, is_over=lambda: False)

    assert given == {"HF_TOKEN": long}
    assert not os.path.lexists(path)
    assert not give(workspace, HF_TOKEN="late"), "nobody waits any more"


def test_a_run_that_gets_no_answer_goes_on(workspace: Workspace) -> None:
    path, asked = late_secrets.pipe_of(workspace, "r"), []
    Path(path).write_text("left by a run that was killed")

    given = late_secrets.awaited(
        path, ["A"], ask=lambda: asked.append(1), wait_s=20.0, is_over=lambda: bool(asked)
    )

    assert (given, asked) == ({}, [1])
    assert not os.path.lexists(path)


def test_nothing_is_written_to_what_is_no_pipe(workspace: Workspace) -> None:
    path = Path(late_secrets.pipe_of(workspace, "r"))
    path.write_text("")

    assert not give(workspace, HF_TOKEN="hush")
    assert path.read_text() == ""


def test_a_condition_holds_where_the_value_is_offered_and_not_yet_here(tmp_path: Path) -> None:
    without = quiet_context(str(tmp_path), within_s=5.0, has_state=False)
    offered = quiet_context(str(tmp_path), within_s=5.0, has_state=False, offered=["HF_TOKEN"])

    assert conditions.unmet(When(secret="HF_TOKEN"), {}, without) == "the secret HF_TOKEN is not set"
    assert conditions.unmet(When(secret="HF_TOKEN"), {}, offered) is None
