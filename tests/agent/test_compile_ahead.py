"""What a program will import is compiled before it starts, by following its import statements; nothing of it is run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.downloads import eventually
from harness.environments import Surroundings
from provision_agent.contract.plan import Plan, Repo, Service
from provision_agent.host.compile_ahead import Ahead
from provision_agent.steps.python.head_start import HeadStart
from provision_agent.steps.python.venv import Venv


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def left(folder: Path) -> list[str]:
    """The sources in *folder* that are compiled."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*.py"))
    return sorted(
        name for name in found if os.path.exists(importlib.util.cache_from_source(str(folder / name)))
    )


PROGRAM = {
    "main.py": "import own.one, json\nraise SystemExit('this is not to be run')\n",
    "own/__init__.py": "",
    "own/one.py": "from . import two\nfrom .deep.three import x\ntry:\n    import missing\nexcept ImportError:\n    pass\n",
    "own/two.py": "class A:\n    from own import in_a_class\ndef f():\n    from own import later\n",
    "own/in_a_class.py": "",
    "own/later.py": "",
    "own/deep/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .only_types import X\n",
    "own/deep/three.py": "x = 1\n",
    "own/deep/only_types.py": "",
    "own/broken.py": "def (",
    "beside.py": "import own.broken\n",
    "tests/test_it.py": "",
}


def test_what_a_program_imports_is_compiled_and_nothing_else_and_nothing_is_run(tmp_path: Path) -> None:
    write(tmp_path, PROGRAM)

    Ahead([str(tmp_path / "main.py")]).work()

    compiled = [
        "main.py",
        "own/__init__.py",
        "own/deep/__init__.py",
        "own/deep/three.py",
        "own/in_a_class.py",
    ]
    assert left(tmp_path) == [*compiled, "own/one.py", "own/two.py"]


def test_a_folder_is_compiled_as_a_whole_but_for_what_is_no_part_of_the_program(tmp_path: Path) -> None:
    write(tmp_path, PROGRAM)

    Ahead([str(tmp_path)]).work()

    without = {"tests/test_it.py", "own/broken.py"}
    assert left(tmp_path) == sorted(set(PROGRAM) - without)


def test_python_takes_what_was_left_and_nothing_of_a_source_that_has_changed_since(tmp_path: Path) -> None:
    write(tmp_path, {"one.py": "print('first')\n"})
    ahead = Ahead([str(tmp_path / "one.py")])
    ahead.work()
    cached = Path(importlib.util.cache_from_source(str(tmp_path / "one.py")))
    before = cached.read_bytes()
    words = [
        sys.executable,
        "-v",
        "-c",
        "import sys; sys.path.insert(0, sys.argv[1]); import one",
        str(tmp_path),
    ]

    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "first\n" and f"code object from '{cached}'" in told.stderr
    write(tmp_path, {"one.py": "print('second, and longer')\n"})
    again = Ahead([str(tmp_path / "one.py")])
    again.work()

    assert (ahead.compiled, again.compiled) == (1, 1) and cached.read_bytes() != before
    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "second, and longer\n"
    assert Ahead([str(tmp_path / "one.py")]).compiled == 0


def test_its_time_is_bounded(tmp_path: Path) -> None:
    write(tmp_path, PROGRAM)

    Ahead([str(tmp_path)], within_s=0.0).work()

    assert left(tmp_path) == []


def test_services_and_their_nodes_are_compiled_in_an_environment_that_a_run_made_and_in_no_other(
    here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    app = Path(here.workspace) / "app"
    write(app, {"main.py": "import used\n", "used.py": "", "extra.py": ""})
    write(app / "custom_nodes", {"node/__init__.py": "from . import inside\n", "node/inside.py": ""})
    plan = Plan(
        name="x",
        workspace=here.workspace,
        repos=(Repo(url="https://host/node.git", path="app/custom_nodes/node"),),
        services=(Service(name="app", run=("python", "main.py", "--cpu"), directory="app"),),
    )

    foreign = HeadStart(plan, here.context)
    foreign.give(venv)
    here.context.state.put("venv", venv.path, {"is_ours": True})
    ours = HeadStart(plan, here.context)
    ours.give(venv)
    try:
        wanted = [
            "custom_nodes/node/__init__.py",
            "custom_nodes/node/inside.py",
            "extra.py",
            "main.py",
            "used.py",
        ]
        eventually(lambda: left(app) == wanted)
    finally:
        began = time.monotonic()
        ours.end()
        foreign.end()
    assert time.monotonic() - began < 60
    assert foreign.roots() == [str(app / "main.py"), str(app / "custom_nodes/node/__init__.py"), str(app)]
