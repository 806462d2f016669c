"""One machine works in a workspace, and a second one is told who."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from provision_agent.contract.failures import Failure
from provision_agent.run.state import StateFile
from provision_agent.run.workspace import STALE_AFTER_S, Workspace, WorkspaceHeldError, WorkspaceLock, resolve


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return resolve(str(tmp_path / "w"), fallback=False)


def write_lock(workspace: Workspace, **record: Any) -> None:
    Path(workspace.lock).write_text(json.dumps(record))


def test_the_second_to_ask_is_told_who_holds_the_lock(workspace: Workspace) -> None:
    lock = WorkspaceLock.take(workspace)
    lock.renew(run="r1")

    with pytest.raises(WorkspaceHeldError) as held:
        WorkspaceLock.take(workspace)

    assert held.value.holder.run == "r1"
    assert not held.value.is_elsewhere
    lock.release()
    WorkspaceLock.take(workspace).release()


def test_another_machine_on_the_same_volume_is_refused_by_name(workspace: Workspace) -> None:
    write_lock(workspace, hostname="gpu-7", boot_id="other", run="r9")

    with pytest.raises(WorkspaceHeldError) as held:
        WorkspaceLock.take(workspace)

    assert held.value.is_elsewhere
    assert held.value.holder.hostname == "gpu-7"


def test_a_lock_that_nobody_renews_any_more_is_taken(workspace: Workspace) -> None:
    write_lock(workspace, hostname="gpu-7", boot_id="other", run="r9")
    then = os.stat(workspace.lock).st_mtime - STALE_AFTER_S - 5
    os.utime(workspace.lock, (then, then))

    WorkspaceLock.take(workspace).release()


def test_a_released_lock_is_free_for_any_machine(workspace: Workspace) -> None:
    write_lock(workspace, hostname="gpu-7", boot_id="other", run="r9", released=True)

    WorkspaceLock.take(workspace).release()


def test_a_folder_that_cannot_be_made_is_said_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Failure) as failure:
        resolve(str(tmp_path / "file" / "w"), fallback=False)

    assert failure.value.class_ == "read_only"
    assert "Not a directory" in failure.value.message


def test_an_unreadable_state_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"format": 1, "items": [')

    state = StateFile(str(path))
    state.put("download", "a", {"size": 1})

    assert state.set_aside == f"{path}.unreadable"
    assert Path(state.set_aside).exists()
    assert StateFile(str(path)).get("download", "a") == {"size": 1}
