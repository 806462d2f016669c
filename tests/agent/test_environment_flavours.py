"""Distributions that bring the same files under several names become one, with the real pip and an index on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings
from harness.package_index import PackageIndex
from provision_agent.contract.plan import Layer, Python
from provision_agent.host import answers, probe
from provision_agent.steps.python import packages
from provision_agent.steps.python.venv import Venv

NO_GPU: dict[str, Any] = {"gpus": [], "cuda": None}
FLAVOURS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")


@pytest.fixture
def index(bare_pip: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        for name in FLAVOURS:
            files = {"cv2/__init__.py": f"by = {name!r}\n", f"cv2/{name}.py": "", "cv2/same.py": ""}
            index.add(name, "4.11", files=files)
        yield index


def install(here: Surroundings, venv: Venv) -> None:
    """A layer wants the first, and two nodes the others."""
    python = Python(installer="pip", timeout_s=5, retries=0, layers=(Layer(packages=FLAVOURS[:1]),))
    packages.install(python, venv, here.context, NO_GPU)
    for name in FLAVOURS[1:]:
        path = here.write(f"{name}/requirements.txt", f"{name}>=4\n")
        packages.install_requirements(
            path, venv, here.context, python, f"{name}/requirements.txt", "required"
        )


def test_three_flavours_of_opencv_become_one_and_a_second_run_installs_nothing(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    install(here, venv)
    index.requests.clear()
    here.events.clear()
    install(here, venv)

    cv2 = "import cv2, os; print(cv2.by, sorted(os.listdir(os.path.dirname(cv2.__file__))))"
    told = subprocess.run([venv.python, "-B", "-c", cv2], check=True, stdout=subprocess.PIPE, timeout=20)
    kept = "opencv-contrib-python"
    assert told.stdout.decode().split()[0] == kept
    assert f"{kept}.py" in told.stdout.decode() and "headless" not in told.stdout.decode()
    assert index.requests == []
    assert {name for name in here.names() if name.startswith("package_")} == {
        "package_started",
        "package_skipped",
    }
    check = subprocess.run([venv.python, "-m", "pip", "check"], check=False, timeout=20)
    assert check.returncode == 0


def test_flavours_that_an_image_came_with_are_left_to_it(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    pip = [venv.python, "-m", "pip", "install", "-q", "--no-deps", *FLAVOURS[:2]]
    subprocess.run(pip, check=True, timeout=20)
    python = Python(installer="pip", timeout_s=5, retries=0, layers=(Layer(packages=FLAVOURS[:1]),))

    packages.install(python, venv, here.context, NO_GPU)

    (folder,) = Path(venv.path).glob("lib/python*/site-packages")
    assert not list(folder.glob("*/HELD_BY"))


def test_a_file_that_two_distributions_bring_is_right_as_either_of_them_says(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    for name in ("left", "right"):
        index.add(name, "1", files={"shared/data.py": f"# of {name}\n"})
    pip = [venv.python, "-m", "pip", "install", "-q", "--no-deps", "left", "right"]
    subprocess.run(pip, check=True, timeout=20)

    assert probe.ask(venv.python, answers.Damage, timeout_s=20).harmed == {}

    (spoilt,) = Path(venv.path).glob("lib/python*/site-packages/shared/data.py")
    spoilt.write_text("# of nobody, and longer\n")
    assert set(probe.ask(venv.python, answers.Damage, timeout_s=20).harmed) == {"left", "right"}


def test_a_flavour_that_cannot_be_imported_without_a_screen_gives_way_to_one_that_can(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    for name in ("opencv-python", "opencv-contrib-python"):
        index.add(name, "4.11", files={"cv2/__init__.py": "raise ImportError('libGL.so.1')\n"})
    index.add("opencv-contrib-python-headless", "4.11", files={"cv2/__init__.py": "by = 'headless'\n"})
    names = ("opencv-python", "opencv-contrib-python")
    python = Python(installer="pip", timeout_s=5, retries=0, layers=(Layer(packages=names),))

    packages.install(python, venv, here.context, NO_GPU)

    told = subprocess.run(
        [venv.python, "-B", "-c", "import cv2; print(cv2.by)"], check=True, stdout=subprocess.PIPE, timeout=20
    )
    assert told.stdout.decode().strip() == "headless"
