"""Nodes of ComfyUI, imported for real by a child interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness.environments import Surroundings
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Repo
from provision_agent.steps import nodes
from provision_agent.steps.python.venv import Venv

VENV = Venv("/venv/main", sys.executable, False)
NODE = "ComfyUI/custom_nodes/faces"


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    here = Surroundings(str(tmp_path / "workspace"))
    here.write("ComfyUI/folder_paths.py", "models_dir = 'models'\n")
    here.write("ComfyUI/comfy/__init__.py", "")
    here.write("ComfyUI/server.py", "class PromptServer: pass\n")
    here.write("ComfyUI/requirements.txt", "no_such_base\n")
    return here


def check(
    here: Surroundings, code: str, *, requirements: str = "", install: str | None = "requirements.txt"
) -> None:
    here.write(f"{NODE}/__init__.py", code)
    here.write(f"{NODE}/requirements.txt", requirements)
    nodes.check(Repo(url="", path=NODE, install=install), VENV, here.context, f"{NODE}/__init__.py")


GOOD = {
    "of the application": "import folder_paths; from comfy import *; assert folder_paths.models_dir",
    "of its own": "from .impl import Mapping; NODE_CLASS_MAPPINGS = {'a': Mapping}",
    "that adds routes": "from server import PromptServer; PromptServer.instance.routes",
    "that reads arguments": "import argparse; argparse.ArgumentParser().parse_args()",
    "that does without": "try:\n    import no_such_module\nexcept ImportError:\n    pass",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_node_that_imports_is_no_news(name: str, here: Surroundings) -> None:
    here.write(f"{NODE}/impl.py", "class Mapping: pass\n")

    check(here, GOOD[name])

    assert here.names() == ["package_finished"]


MISSING = {
    "import no_such_face.models": "which `no-such-face[gpu]>=1.2` brings (line 2 of requirements.txt)",
    "import cv2_is_not_here": "no requirements file of it asks for one",
    "import cv2": "which `opencv-python-headless` brings (line 3 of requirements.txt)",
    "import no_such_base": "which `no_such_base` brings (line 1 of ../../requirements.txt)",
    "from . import impl; from .more.parts import x": "no module `.more`, which is a file of its own",
    "import comfy.newer_than_this": "`comfy.newer_than_this` in this ComfyUI",
}


@pytest.mark.parametrize("code", MISSING)
def test_a_missing_module_is_named_with_the_requirement_that_brings_it(
    code: str, here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write(f"{NODE}/impl.py", "")
    with pytest.raises(Failure) as caught:
        check(here, code, requirements="numpy\nno-such-face[gpu]>=1.2  # faces\nopencv-python-headless")

    assert caught.value.class_ == "missing"
    assert MISSING[code] in caught.value.message


def test_requirements_that_the_profile_does_not_install_are_said_to_be_left_out(here: Surroundings) -> None:
    with pytest.raises(Failure) as caught:
        check(here, "import no_such_face", requirements="no_such_face", install=None)

    assert caught.value.hint == "add `install: requirements.txt` to the repo in the profile"


OTHER_TROUBLE = {
    "raise RuntimeError('no GPU today')": "RuntimeError: no GPU today",
    "import sys; sys.exit(3)": "SystemExit: 3",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "was ended by signal 11",
    "import time; time.sleep(60)": "did not end within",
}


@pytest.mark.parametrize("code", OTHER_TROUBLE)
def test_any_other_trouble_of_a_node_is_a_warning(
    code: str, here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "IMPORT_S", 3.0)

    check(here, code)

    (warning,) = here.of("warning")
    assert f"the node {NODE} cannot be imported by itself" in warning["message"]
    assert OTHER_TROUBLE[code] in warning["message"]


def test_only_packages_in_the_folder_of_nodes_are_nodes(here: Surroundings) -> None:
    here.write(f"{NODE}/__init__.py", "")
    here.write("ComfyUI/custom_nodes/no_package/main.py", "")
    here.write("library/__init__.py", "")

    paths = (NODE, f"{NODE}/", "ComfyUI/custom_nodes/no_package", "library", "ComfyUI")
    found = [path for path in paths if nodes.is_node(Repo(url="", path=path), here.context)]

    assert found == [NODE, f"{NODE}/"]
