"""Folders that another user of the instance made first, and links, are never used; what is ours is nobody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from provision_agent.contract.failures import Failure
from provision_agent.host.folders import make_private
from provision_agent.run.workspace import resolve

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder another user's")


@NEEDS_ROOT
@pytest.mark.parametrize("inside", [".provision", ".provision/agent", ".provision/runs"])
def test_a_folder_that_another_user_made_first_is_refused_by_name(inside, tmp_path: Path) -> None:
    folder = tmp_path / inside
    folder.mkdir(parents=True)
    os.chown(folder, 65534, 65534)

    with pytest.raises(Failure) as caught:
        resolve(str(tmp_path), fallback=False)

    assert caught.value.class_ == "read_only"
    assert f"`{folder}` belongs to another user (uid 65534)" in caught.value.message
    assert "choose a folder that can be written with `--workspace`" in caught.value.hint
    assert os.listdir(folder) == []


def test_a_link_in_place_of_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".provision").symlink_to("elsewhere")

    with pytest.raises(Failure, match=r"\.provision` is a link, not a folder"):
        resolve(str(tmp_path), fallback=False)

    assert os.listdir(tmp_path / "elsewhere") == []


def test_an_open_folder_of_ours_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / ".provision").mkdir()
    os.chmod(tmp_path / ".provision", 0o777)

    made = resolve(str(tmp_path), fallback=False)

    for folder in ("", "agent", "runs", "services", "cache"):
        assert stat.S_IMODE(os.stat(os.path.join(made.tool, folder)).st_mode) == 0o700


def test_a_workspace_may_be_a_link_and_belong_to_anybody(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "workspace").symlink_to("data")

    assert resolve(str(tmp_path / "workspace"), fallback=False).root == str(tmp_path / "workspace")
    make_private(str(tmp_path / "data/.provision"))
