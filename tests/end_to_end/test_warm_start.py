"""A command that `start_provision` starts warm does and says what it does and says when a shell starts it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from .conftest import Child, Here, start_provision


@pytest.mark.parametrize(
    "words", [("status",), ("nonsense",), ("profiles", "show", "comfyui"), ("check", "none.yaml")]
)
def test_it_ends_and_says_the_same(here: Here, words: tuple[str, ...]) -> None:
    assert here.run(*words) == here.run(*words, environment={})


def _waiting(folder: Path, environment: dict[str, str], *, is_cold: bool) -> Child:
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        words = ("serve", "--listen", "127.0.0.1:0")
        return start_provision(
            words, folder=folder, environment=environment, is_cold=is_cold, out=out, err=err
        )


@pytest.mark.parametrize("is_cold", [True, False])
def test_it_has_a_session_a_folder_and_files_of_its_own_and_nothing_else(here: Here, is_cold: bool) -> None:
    child = _waiting(here.folder, here.environment, is_cold=is_cold)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.01)
        of = f"/proc/{child.pid}"
        assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
        assert os.readlink(f"{of}/cwd") == str(here.folder)
        assert os.readlink(f"{of}/fd/0") == "/dev/null"
        files = {os.readlink(f"{of}/fd/{name}") for name in ("1", "2")}
        assert files == {str(here.folder / "out"), str(here.folder / "err")}
    finally:
        os.killpg(child.pid, signal.SIGKILL)

    assert child.wait(60) == child.poll() == child.returncode == -signal.SIGKILL
    assert not Path(of).exists()
