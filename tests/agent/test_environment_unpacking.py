"""Large wheels are unpacked while others come, beside the environment, which is then linked from what they held."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings
from harness.package_index import PackageIndex
from provision_agent.contract.plan import Layer, Python
from provision_agent.contract.plan_packages import LockedEnvironment, LockedWheel
from provision_agent.host import answers, probe
from provision_agent.steps.python import packages, unpacking
from provision_agent.steps.python.locked_install import LockedInstalls
from provision_agent.steps.python.venv import Venv

pytestmark = pytest.mark.usefixtures("noted_uv")

NO_GPU: dict[str, Any] = {"gpus": [], "cuda": None}
LARGE = unpacking.WORTH_BYTES + 1


@pytest.fixture
def index(index: PackageIndex) -> PackageIndex:
    for version in ("1.0", "2.0"):
        for name in ("large", "larger"):
            module = {f"{name}/__init__.py": f"__version__ = {version!r}\n", f"{name}/data": "x" * LARGE}
            index.add(name, version, files=module)
    return index


def order(*lines: str, locked: LockedEnvironment | None = None) -> Python:
    return Python(
        installer="uv",
        timeout_s=5,
        retries=0,
        layers=tuple(Layer(packages=(line,)) for line in lines),
        locked=locked,
    )


def calls(tmp_path: Path, word: str) -> list[str]:
    """The calls of uv with *word* in them."""
    return [line for line in (tmp_path / "calls").read_text().splitlines() if word in line]


def versions(venv: Venv) -> dict[str, str]:
    return probe.ask(venv.python, answers.Installed, timeout_s=60).versions


def site_of(venv: Venv) -> Path:
    return next(Path(venv.path).glob("lib/python3*/site-packages"))


def test_large_wheels_are_unpacked_before_their_install_and_nothing_is_left_beside_it(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls, tmp_path: Path
) -> None:
    packages.install(order("numpy", "large>=1", "larger"), venv, here.context, NO_GPU, by_lock=by_lock)
    by_lock.close(is_done=True)

    assert {name: versions(venv)[name] for name in ("large", "larger")} == {"large": "2.0", "larger": "2.0"}
    unpacked = "\n".join(calls(tmp_path, "--target"))
    assert "large==2.0" in unpacked and "larger==2.0" in unpacked and "numpy" not in unpacked
    assert (site_of(venv) / "large/data").stat().st_size == LARGE
    assert not (Path(here.context.run_directory) / "wheels").exists()
    assert [name for name in here.names() if "fail" in name or name == "warning"] == []


def test_what_cannot_be_unpacked_before_is_installed_all_the_same(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls, tmp_path: Path
) -> None:
    uv = tmp_path / "bin/uv"
    lines = uv.read_text().splitlines()
    lines.insert(2, 'case "$*" in *--target*) echo "no room for that" >&2; exit 2;; esac')
    uv.write_text("\n".join(lines))

    packages.install(order("large"), venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions(venv)["large"] == "2.0"
    assert any("not unpacked: no room for that" in line for line in here.output)


def test_another_version_of_a_large_wheel_takes_the_place_of_the_first(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    packages.install(order("large==1.0"), venv, here.context, NO_GPU, by_lock=by_lock)
    packages.install(order("large==2.0"), venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions(venv)["large"] == "2.0"
    assert "2.0" in (site_of(venv) / "large/__init__.py").read_text()


def test_the_wheels_of_a_lock_are_unpacked_and_installed_while_others_come_and_what_is_left_by_its_hash(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls, tmp_path: Path
) -> None:
    chosen = {"large": "1.0", "numpy": "1.26.4", "scipy": "1.0"}
    wheels = tuple(
        LockedWheel(name, version, *index.offered(name, version)) for name, version in chosen.items()
    )
    platform = f"linux-{os.uname().machine}"
    locked = LockedEnvironment(f"{sys.version_info[0]}.{sys.version_info[1]}", platform, "none", wheels)

    packages.install(order("large", "scipy", locked=locked), venv, here.context, NO_GPU, by_lock=by_lock)

    assert {name: versions(venv)[name] for name in chosen} == chosen
    assert any("large==1.0" in call for call in calls(tmp_path, "--target"))
