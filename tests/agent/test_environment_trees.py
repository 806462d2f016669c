"""Folders that are in the way, requirement files, and answers from another interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.environments import Surroundings
from provision_agent.environment import probe, requirements, trees
from provision_agent.failures import Failure


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    return Surroundings(str(tmp_path / "workspace"))


def test_a_removed_tree_is_gone(here: Surroundings) -> None:
    here.write("venv/lib/a.py")

    assert trees.remove(os.path.join(here.workspace, "venv"), here.context) is None
    assert [name for name in os.listdir(here.workspace) if name != ".provision"] == []


def test_a_link_is_removed_and_what_it_leads_to_stays(here: Surroundings) -> None:
    kept = here.write("real/a.py")
    os.symlink("real", os.path.join(here.workspace, "venv"))

    assert trees.remove(os.path.join(here.workspace, "venv"), here.context) is None
    assert os.path.exists(kept)
    assert not os.path.lexists(os.path.join(here.workspace, "venv"))


def test_who_holds_a_tree_is_named(here: Surroundings) -> None:
    folder = os.path.dirname(here.write("venv/a.py"))
    holder = subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"],
        cwd=folder,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert any(f"({holder.pid})" in name for name in trees.holders(folder))
    finally:
        holder.kill()
        holder.communicate(timeout=10)


def test_a_tree_that_cannot_be_deleted_still_frees_its_name_and_is_reported(here: Surroundings) -> None:
    path = here.write("venv/a.py")
    if subprocess.run(["chattr", "+i", path], check=False, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("this file system or user cannot make a file immutable")
    try:
        left = trees.remove(os.path.dirname(path), here.context, waits_s=(0.01,))
    finally:
        found = next(Path(here.workspace).glob("*/a.py"))
        subprocess.run(["chattr", "-i", str(found)], check=True)

    assert left is not None
    assert "cannot be deleted" in left
    assert not os.path.exists(os.path.join(here.workspace, "venv"))


LINES = {
    "torch": ["torch"],
    "Torch_Vision[all]>=0.2; python_version > '3.8'": ["torch-vision"],
    "insightface==0.7.3 # faces": ["insightface"],
    "sam @ git+https://example.org/sam.git": ["sam"],
    "git+https://example.org/sam.git#egg=segment_anything": ["segment-anything"],
    "https://example.org/x-1.0-py3-none-any.whl": [],
    "-r other.txt": [],
    "--extra-index-url https://example.org/simple": [],
    "# torch": [],
    "./local": [],
    "": [],
}


@pytest.mark.parametrize("line", LINES)
def test_a_requirement_line_names_what_pip_would_install(line: str) -> None:
    assert requirements.names_of([line]) == LINES[line]


def test_a_requirements_file_has_changed_when_one_that_it_includes_has(here: Surroundings) -> None:
    path = here.write("requirements.txt", "numpy\n-r more/core.txt\n-r requirements.txt")
    here.write("more/core.txt", "\ufefftorch")
    before = requirements.read(path)
    here.write("more/core.txt", "torch<2.9")

    assert before.names == ["numpy", "torch"]
    assert requirements.read(path).digest != before.digest


def test_a_long_answer_arrives_whole_among_chatter(tmp_path: Path) -> None:
    answer = probe.ask(sys.executable, "missing_files", *(f"no-such-{n}" for n in range(10)), timeout_s=20)
    installed = probe.ask(sys.executable, "imports", *("x" * 50 + str(n) for n in range(200)), timeout_s=20)

    assert answer == {}
    assert len(installed) == 200
    assert "No module named" in installed["x" * 50 + "199"]


def test_an_interpreter_that_hangs_costs_its_bound(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)

    with pytest.raises(Failure) as caught:
        probe.ask(str(program), "interpreter", timeout_s=0.3)

    assert caught.value.class_ == "timed_out"
