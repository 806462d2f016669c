"""Where wheels are unpacked: on the disk of the environment, wherever the workspace lies, and counted there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.environments import Surroundings
from harness.package_index import PackageIndex
from provision_agent.commands import room_told
from provision_agent.contract.environment_told import EnvironmentTold
from provision_agent.contract.plan import Layer, Plan, Python
from provision_agent.steps.python import packages, uv_cache
from provision_agent.steps.python.locked_install import LockedInstalls
from provision_agent.steps.python.venv import Venv


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the workspace."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.usefixtures("noted_uv", "bare_home")
def test_an_environment_on_another_disk_than_the_workspace_has_what_is_unpacked_beside_it(
    index: PackageIndex, here: Surroundings, by_lock: LockedInstalls, other_disk: Path
) -> None:
    """The workspace may be a network volume: nothing of a package is written there but its wheel."""
    path = other_disk / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True, timeout=60)
    venv = Venv(str(path), str(path / "bin" / "python"), True)
    wanted = Python(installer="uv", timeout_s=5, retries=0, layers=(Layer(packages=("scipy",)),))
    facts = {"gpus": [], "cuda": None}

    packages.install(wanted, venv, here.context, facts, by_lock=by_lock)

    [module] = path.glob("lib/python3*/site-packages/numpy/__init__.py")
    assert module.stat().st_nlink == 2, "it lies there once, linked"
    assert list(Path(here.workspace).rglob("numpy/__init__.py")) == []
    assert len(list(other_disk.rglob("numpy/__init__.py"))) == 2


def test_a_cache_that_was_named_is_taken_and_else_the_first_on_the_disk_of_the_environment(
    tmp_path: Path, other_disk: Path
) -> None:
    venv, beside = str(tmp_path / "venv"), str(other_disk / "venv")
    own = str(tmp_path / ".provision" / "cache" / "uv")

    assert uv_cache.place(str(tmp_path), venv, {}) == own
    assert uv_cache.place(str(tmp_path), beside, {"UV_CACHE_DIR": "/named"}) == "/named"
    at_home = {"XDG_CACHE_HOME": str(other_disk / "cache")}
    assert uv_cache.place(str(tmp_path), beside, at_home) == f"{other_disk}/cache/provision/uv"
    elsewhere = {"XDG_CACHE_HOME": str(tmp_path)}
    assert uv_cache.place(str(tmp_path), beside, elsewhere) == f"{other_disk}/.provision-cache/uv"


@pytest.mark.usefixtures("bare_home")
def test_what_lies_on_a_disk_twice_is_counted_twice(
    here: Surroundings, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = EnvironmentTold("resolved", fetch_bytes=10 << 30, unpacked_bytes=100 << 30)
    plan = Plan(name="p", workspace=here.workspace, python=Python(venv=str(other_disk / "venv")))

    def needed() -> list[int]:
        """In hundreds of GiB, by file system: that of the workspace, that of the environment."""
        disks = room_told.disks_of(plan, here.context, (), told, {})
        return [(disk.needed_bytes or 0) // (90 << 30) for disk in disks]

    assert needed() == [0, 1]
    monkeypatch.setenv("UV_LINK_MODE", "copy")
    assert needed() == [0, 2]
    monkeypatch.delenv("UV_LINK_MODE")
    monkeypatch.setenv("UV_CACHE_DIR", os.path.join(here.workspace, "cache"))
    assert needed() == [1, 1]
