"""Nodes of ComfyUI, imported for real by a child interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness.environments import Surroundings
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Repo, Service
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
    imported(here, Repo(url="", path=NODE, install=install))


def imported(here: Surroundings, repo: Repo, *arguments: str) -> None:
    answer = nodes.import_all([repo], VENV, here.context, arguments)[repo.path]
    nodes.check(repo, answer, VENV, here.context, f"{repo.path}/__init__.py")


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

    assert [name for name in here.names() if not name.endswith("_progress")] == ["package_finished"]


MISSING = {
    "import no_such_face.models": "which `no-such-face[gpu]>=1.2` brings (line 2 of requirements.txt)",
    "import cv2_is_not_here": "no requirements file of it asks for one",
    "import cv2": "which `opencv-python-headless` brings (line 3 of requirements.txt)",
    "import no_such_base": "which `no_such_base` brings (line 1 of ../../requirements.txt)",
    "from . import impl; from .more.parts import x": "no module `.more`, which is a file of its own",
    "import os, sys; sys.path.append(os.path.join(os.path.dirname(__file__), 'modules')); import face.more": (
        "no module `face.more`, which is a file of its own"
    ),
    "import comfy.newer_than_this": "`comfy.newer_than_this` in this ComfyUI",
}


@pytest.mark.parametrize("code", MISSING)
def test_a_missing_module_is_named_with_the_requirement_that_brings_it(
    code: str, here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write(f"{NODE}/impl.py", "")
    here.write(f"{NODE}/modules/face/__init__.py", "")
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


def test_requirements_that_are_installed_if_present_are_looked_for_on_the_instance(
    here: Surroundings,
) -> None:
    folder = Path(here.workspace, "ComfyUI/custom_nodes/a")
    folder.mkdir(parents=True)
    if_present, always, never = (
        Repo(url="https://e.org/a", path="ComfyUI/custom_nodes/a", install=install)
        for install in ("if_present", "requirements.txt", None)
    )

    assert not nodes.has_requirements(if_present, here.context)
    assert nodes.has_requirements(always, here.context), (
        "a file that must be there and is not is an error, not nothing"
    )
    assert not nodes.has_requirements(never, here.context)
    (folder / "requirements.txt").touch()
    assert nodes.has_requirements(if_present, here.context)
    assert if_present.requirements == "requirements.txt"


def test_only_packages_in_the_folder_of_nodes_are_nodes(here: Surroundings) -> None:
    here.write(f"{NODE}/__init__.py", "")
    here.write("ComfyUI/custom_nodes/no_package/main.py", "")
    here.write("library/__init__.py", "")

    paths = (NODE, f"{NODE}/", "ComfyUI/custom_nodes/no_package", "library", "ComfyUI")
    found = [path for path in paths if nodes.is_node(Repo(url="", path=path), here.context)]

    assert found == [NODE, f"{NODE}/"]


def like_the_real_one(here: Surroundings) -> None:
    """What misleads an import from outside: arguments that are read when told to, and two modules called `utils`."""
    here.write(
        "ComfyUI/comfy/options.py",
        "args_parsing = False\ndef enable_args_parsing():\n    global args_parsing\n    args_parsing = True\n",
    )
    here.write(
        "ComfyUI/comfy/cli_args.py",
        "import argparse, comfy.options\nparser = argparse.ArgumentParser()\nparser.add_argument('--cpu', action='store_true')\n"
        "parser.add_argument('--port', type=int)\n"
        "args = parser.parse_args(None if comfy.options.args_parsing else [])\n",
    )
    here.write("ComfyUI/comfy/utils.py", "")
    here.write("ComfyUI/utils/__init__.py", "")
    here.write("ComfyUI/utils/extra_config.py", "def load_extra_path_config(path): pass\n")
    here.write(
        "ComfyUI/nodes.py",
        "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'comfy'))\n"
        "from comfy.cli_args import args\nassert args.cpu, 'Torch not compiled with CUDA enabled'\n",
    )


AS_COMFYUI_DOES = {
    "that imports ComfyUI's nodes on a machine without a GPU": "import nodes\nNODE_CLASS_MAPPINGS = {}\n",
    "that needs its utils after its nodes": "import nodes\nfrom utils.extra_config import load_extra_path_config\n",
    "that reads its port": "from comfy.cli_args import args\nassert args.port == 8188\n",
    "that reads the words themselves": "import sys\nassert sys.argv == ['main.py', '--cpu', '--port', '8188']\n",
    "that imports from its folder comfy": "import cli_args\n",
}


@pytest.mark.parametrize("name", AS_COMFYUI_DOES)
def test_a_node_is_imported_as_comfyui_itself_does(name: str, here: Surroundings) -> None:
    like_the_real_one(here)
    here.write(f"{NODE}/__init__.py", AS_COMFYUI_DOES[name])
    service = Service(
        name="comfyui", run=("python", "-u", "main.py", "--cpu", "--port", "8188"), directory="ComfyUI"
    )

    arguments = nodes.arguments_of(service)
    imported(here, Repo(url="", path=NODE), *arguments)

    assert here.names() == ["package_finished"]


def test_nodes_are_imported_together_and_one_that_kills_the_interpreter_takes_no_other_with_it(
    here: Surroundings,
) -> None:
    codes = {
        "first": "",
        "deadly": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "last": "import nothing_",
    }
    for name, code in codes.items():
        here.write(f"ComfyUI/custom_nodes/{name}/__init__.py", code)
    repos = [Repo(url="", path=f"ComfyUI/custom_nodes/{name}") for name in codes]

    first, deadly, last = nodes.import_all(repos, VENV, here.context).values()

    assert first.error == ""
    assert "was ended by signal 11" in deadly.error
    assert last.missing == "nothing_"
