"""Which environment is taken, and what is done about a broken one; real ones throughout."""

from __future__ import annotations

import os
import sys
import venv as builder
from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings, copy_of_environment
from harness.package_index import FAKE_TORCH
from provision_agent.contract.failures import Failure
from provision_agent.contract.findings import Facts, Interpreter
from provision_agent.contract.plan import Python
from provision_agent.steps.python import venv

GPU = [{"name": "card", "compute_capability": "8.9", "memory_bytes": 1}]
AUTO = Python(installer="pip")


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    return Surroundings(str(tmp_path / "workspace"))


def facts(*, gpus: Any = (), venvs: tuple[str, ...] = ()) -> dict[str, Any]:
    version = ".".join(map(str, sys.version_info[:3]))
    return {
        "gpus": list(gpus),
        "uv": None,
        "pythons": [{"path": sys.executable, "version": version}],
        "venvs": [{"path": path, "python": f"{path}/bin/python", "torch": "2.5.1"} for path in venvs],
    }


def with_torch(path: str, *, cuda: str | None) -> str:
    copy_of_environment(path)
    package = next(Path(path).glob("lib/python3*/site-packages")) / "torch"
    package.mkdir()
    (package / "__init__.py").write_text(FAKE_TORCH.format(version="2.5.1", cuda=cuda))
    return path


def test_auto_makes_one_in_the_workspace_and_finds_it_again(here: Surroundings) -> None:
    made = venv.prepare(AUTO, here.context, facts())
    again = venv.prepare(AUTO, here.context, facts())

    assert made == venv.Venv(f"{here.workspace}/venv", f"{here.workspace}/venv/bin/python", True)
    assert again == venv.Venv(made.path, made.python, False) == venv.find(AUTO, here.context)
    assert here.names() == ["package_started", "package_finished", "package_started", "package_skipped"]


def test_auto_takes_the_one_whose_torch_runs_on_this_gpu_and_stays_with_it(
    here: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GPU", "1")
    cpu_only = with_torch(str(tmp_path / "image"), cuda=None)
    suiting = with_torch(str(tmp_path / "main"), cuda="12.4")

    found = venv.prepare(AUTO, here.context, facts(gpus=GPU, venvs=(cpu_only, suiting)))
    monkeypatch.delenv("FAKE_GPU")
    again = venv.prepare(AUTO, here.context, facts(gpus=GPU, venvs=(cpu_only, suiting)))

    assert (found.path, found.is_created) == (suiting, False)
    assert again.path == suiting


def test_a_given_path_is_taken_as_it_is(here: Surroundings) -> None:
    copy_of_environment(os.path.join(here.workspace, "mine"))

    assert (
        venv.prepare(Python(venv="mine", installer="pip"), here.context, facts()).path
        == f"{here.workspace}/mine"
    )


def broken_by_a_lost_interpreter(path: str) -> None:
    for name in ("python", "python3"):
        os.unlink(f"{path}/bin/{name}")
    os.symlink("/nowhere/python", f"{path}/bin/python")


def broken_by_a_death_while_it_was_made(path: str) -> None:
    builder.create(f"{path}-bare", with_pip=False, symlinks=True)
    os.rename(path, f"{path}-old")
    os.rename(f"{path}-bare", path)


@pytest.mark.parametrize("damage", [broken_by_a_lost_interpreter, broken_by_a_death_while_it_was_made])
def test_a_broken_environment_is_made_again_and_said_so(damage: Any, here: Surroundings) -> None:
    path = os.path.join(here.workspace, "venv")
    copy_of_environment(path)
    damage(path)

    made = venv.prepare(AUTO, here.context, facts())

    assert made.is_created
    assert venv.health(path, here.context, needs_pip=True) is None
    assert "making it again" in here.of("warning")[0]["message"]


def test_a_folder_with_something_else_in_it_is_not_touched(here: Surroundings) -> None:
    kept = here.write("venv/thesis.txt", "years of work")

    with pytest.raises(Failure) as caught:
        venv.prepare(AUTO, here.context, facts())

    assert caught.value.class_ == "conflict"
    assert Path(kept).read_text() == "years of work"


def test_a_python_without_its_venv_module_is_named_with_the_command_that_installs_it(
    here: Surroundings,
) -> None:
    program = here.write("python3.10", "#!/bin/sh\necho 'ensurepip is not available'\nexit 1\n")
    os.chmod(program, 0o755)

    with pytest.raises(Failure) as caught:
        venv.prepare(AUTO, here.context, dict(facts(), pythons=[{"path": program, "version": "3.10.12"}]))

    assert "ensurepip is not available" in caught.value.message
    assert "apt-get install -y python3.10-venv" in caught.value.hint


def test_an_old_python_of_the_agent_makes_room_for_a_newer_one() -> None:
    old, new = Interpreter("/usr/bin/python3", "3.8.10"), Interpreter("/usr/bin/python3.11", "3.11")

    assert venv.base_python(Facts(pythons=(old, new))) == new.path
    assert venv.base_python(Facts(pythons=(old,))) == old.path
