"""What counts as there: files, patterns, imports."""

from __future__ import annotations

import os
import sys
import venv as builder
from pathlib import Path

import pytest
from harness.environments import Surroundings
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Check
from provision_agent.steps.checks import run_check
from provision_agent.steps.python.venv import Venv


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    return Surroundings(str(tmp_path / "work [1]"))


def failure_of(check: Check, here: Surroundings, venv: Venv | None = None) -> Failure:
    with pytest.raises(Failure) as caught:
        run_check(check, here.context, venv)
    return caught.value


def test_a_path_that_is_there_passes_and_says_so(here: Surroundings) -> None:
    here.write("models/a.safetensors", "12345")

    assert (
        run_check(Check(name="A", path="models/a.safetensors", level="critical"), here.context, None) == "5 B"
    )
    assert here.events == [("check_passed", {"item": "A", "level": "critical", "found": "5 B"})]


def test_a_missing_path_fails_with_what_was_found(here: Surroundings) -> None:
    failure = failure_of(Check(name="Manager", path="nodes/Manager"), here)

    assert failure.class_ == "missing"
    assert here.of("check_failed")[0]["found"] == 0
    assert "`nodes/Manager` is not there" in failure.message


def test_a_link_to_nothing_is_not_there(here: Surroundings) -> None:
    os.symlink("/nowhere", os.path.join(here.workspace, "link"))

    assert "link to nothing" in failure_of(Check(name="L", path="link"), here).message


PATTERNS = {
    "one folder": (["models/*.safetensors"], 2),
    "counts add up": (["models/*.safetensors", "models/*.ckpt"], 3),
    "a file counts once": (["models/*.safetensors", "models/a.*", "**/a.safetensors"], 2),
    "two stars go down": (["**/*.safetensors"], 3),
    "two stars match no folder too": (["models/**/*.ckpt"], 1),
    "two stars at the end take all files": (["models/sub/**"], 1),
    "hidden files stay out": (["models/hidden/*"], 0),
    "partial files never count": (["models/*.part"], 0),
    "folders never count": (["models/s*"], 0),
    "a class of characters": (["models/[ab].safetensors"], 2),
}


@pytest.mark.parametrize("case", PATTERNS.values(), ids=PATTERNS.keys())
def test_patterns_count_files(case: tuple[list[str], int], here: Surroundings) -> None:
    for name in (
        "a.safetensors",
        "b.safetensors",
        "c.ckpt",
        "d.safetensors.part",
        "sub/e.safetensors",
        "hidden/.x",
    ):
        here.write(f"models/{name}")
    patterns, count = case

    assert run_check(Check(name="C", glob=tuple(patterns), min_count=0), here.context, None) == count


def test_small_files_do_not_count_and_are_mentioned(here: Surroundings) -> None:
    here.write("a.ckpt", "1234567890")
    here.write("b.ckpt", "1")

    failure = failure_of(Check(name="C", glob=("*.ckpt",), min_count=2, min_size_bytes=10), here)

    assert (failure.facts["found"], failure.facts["min_count"]) == (1, 2)
    assert "1 more below 10 bytes" in failure.message


def test_links_in_circles_end_and_a_model_counts_once_however_it_is_linked(here: Surroundings) -> None:
    here.write("store/a.ckpt")
    os.symlink("a.ckpt", os.path.join(here.workspace, "store", "b.ckpt"))
    os.makedirs(os.path.join(here.workspace, "models"))
    os.symlink("../store", os.path.join(here.workspace, "models", "linked"))
    for name in ("one", "two"):
        os.symlink("..", os.path.join(here.workspace, "models", name))

    assert run_check(Check(name="C", glob=("models/**/*.ckpt",)), here.context, None) == 1


def test_modules_are_imported_in_the_environment_and_the_missing_one_is_named(here: Surroundings) -> None:
    venv = Venv("", sys.executable, False)
    assert run_check(Check(name="J", imports=("json", "os")), here.context, venv) == 2

    failure = failure_of(Check(name="T", imports=("json", "no_such_torch")), here, venv)

    assert failure.class_ == "missing"
    assert "No module named 'no_such_torch'" in failure.message
    assert failure.facts["found"] == "not importable: no_such_torch"


def test_an_interpreter_that_dies_while_importing_is_a_failure_that_names_the_module(
    here: Surroundings,
) -> None:
    path = os.path.join(here.workspace, "venv")
    builder.create(path, with_pip=False)
    site = next(Path(path).glob("lib/python3*/site-packages"))
    (site / "crashing.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    venv = Venv(path, os.path.join(path, "bin", "python"), True)

    failure = failure_of(Check(name="T", imports=("crashing",)), here, venv)

    assert failure.class_ == "missing"
    assert "signal 11" in failure.message
    assert "importing crashing" in failure.message
