"""Folders that are in the way, requirement files, and answers from another interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from harness.environments import Surroundings
from provision_agent.contract.failures import Failure
from provision_agent.host import answers, probe
from provision_agent.steps import remove_tree
from provision_agent.steps.python import requirements


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    return Surroundings(str(tmp_path / "workspace"))


def test_a_removed_tree_is_gone(here: Surroundings) -> None:
    here.write("venv/lib/a.py")

    assert remove_tree.remove(os.path.join(here.workspace, "venv"), here.context) is None
    assert [name for name in os.listdir(here.workspace) if name != ".provision"] == []


def test_a_link_is_removed_and_what_it_leads_to_stays(here: Surroundings) -> None:
    kept = here.write("real/a.py")
    os.symlink("real", os.path.join(here.workspace, "venv"))

    assert remove_tree.remove(os.path.join(here.workspace, "venv"), here.context) is None
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
        assert any(f"({holder.pid})" in name for name in remove_tree.holders(folder))
    finally:
        holder.kill()
        holder.communicate(timeout=10)


def test_a_tree_that_cannot_be_deleted_still_frees_its_name_and_is_reported(here: Surroundings) -> None:
    path = here.write("venv/a.py")
    if subprocess.run(["chattr", "+i", path], check=False, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("this file system or user cannot make a file immutable")
    try:
        left = remove_tree.remove(os.path.dirname(path), here.context, waits_s=(0.01,))
    finally:
        found = next(Path(here.workspace).glob("*/a.py"))
        subprocess.run(["chattr", "-i", str(found)], check=True)

    assert left is not None
    assert "cannot be deleted" in left
    assert not os.path.exists(os.path.join(here.workspace, "venv"))


HOLDER = """
import signal, subprocess, sys
def let_go(*_):
    subprocess.run(["chattr", "-i", sys.argv[1]])
    sys.exit()
signal.signal(signal.SIGTERM, let_go)
file = open(sys.argv[1])
print(subprocess.run(["chattr", "+i", sys.argv[1]]).returncode, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("is_asked", [False, True])
def test_who_keeps_a_tree_from_being_deleted_is_ended_only_when_that_was_asked(
    here: Surroundings, is_asked: bool
) -> None:
    path = here.write("venv/a.py")
    argv = [sys.executable, "-c", HOLDER, os.path.basename(path)]
    holder = subprocess.Popen(argv, cwd=os.path.dirname(path), stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != b"0":
            pytest.skip("this file system or user cannot make a file immutable")
        context = replace(here.context, kill_holders=is_asked)
        left = remove_tree.remove(os.path.dirname(path), context, waits_s=(0.01,))
        status = holder.poll()
    finally:
        holder.terminate()
        holder.communicate(timeout=10)

    if is_asked:
        assert (left, status) == (None, 0)
        assert f"({holder.pid}) held" in here.of("warning")[0]["message"]
    else:
        assert status is None
        assert left is not None
        assert f"({holder.pid})" in left
        assert "--kill-holders" in left


def test_this_process_and_those_that_it_came_from_are_never_ended(here: Surroundings) -> None:
    path = here.write("venv/a.py")
    if subprocess.run(["chattr", "+i", path], check=False, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("this file system or user cannot make a file immutable")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from dataclasses import replace\n"
        "from harness.environments import Surroundings; from provision_agent.steps import remove_tree\n"
        "context = replace(Surroundings(sys.argv[3]).context, kill_holders=True)\n"
        "remove_tree.remove(sys.argv[3] + '/venv', context, waits_s=())\n"
    )
    paths = [str(Path(remove_tree.__file__).parents[2]), str(Path(__file__).parents[1])]
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]  # sits in the folder too, and waits for its child
    folder = os.path.dirname(path)
    try:
        done = subprocess.run(
            [*shell, sys.executable, "-c", code, *paths, here.workspace], cwd=folder, timeout=20
        )
    finally:
        for found in Path(here.workspace).glob("*/a.py"):
            subprocess.run(["chattr", "-i", str(found)], check=True)

    assert done.returncode == 0


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
    answer = probe.ask(sys.executable, answers.Damage, *(f"no-such-{n}" for n in range(10)), timeout_s=20)
    modules = ["x" * 50 + str(n) for n in range(200)]
    reasons = probe.ask(sys.executable, answers.Imports, *modules, timeout_s=20).reasons

    assert answer.harmed == {}
    assert list(reasons) == modules
    assert "No module named" in reasons["x" * 50 + "199"]


def test_an_error_that_is_no_text_or_endless_is_an_answer_all_the_same(here: Surroundings) -> None:
    """Foreign modules say what they like."""
    folder = os.path.dirname(here.write("odd/__init__.py", "raise OSError('\\udcff' + 'x' * 10**6)"))

    asked = json.dumps([folder])
    told = probe.ask(sys.executable, answers.Nodes, here.workspace, asked, timeout_s=20).imports[folder]

    assert told.error.startswith("OSError: ?xxx")
    assert len(told.error) <= 4000


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ('{"versions": {"numpy": 1}}', "must be text"),
        ('["numpy"]', "must be an object"),
        ('{"versions": NaN}', "NaN"),
        ('{"versions"', "last output: "),
    ],
)
def test_an_interpreter_that_answers_something_else_is_said_so(said: str, wrong: str, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{probe.MARK}{json.dumps(said)}\nEND\n")
    program.chmod(0o755)

    with pytest.raises(Failure) as caught:
        probe.ask(str(program), answers.Installed, timeout_s=20)

    assert caught.value.class_ == "command"
    assert wrong in caught.value.message


def test_an_interpreter_that_hangs_costs_its_bound(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)

    with pytest.raises(Failure) as caught:
        probe.ask(str(program), answers.Interpreter, timeout_s=0.3)

    assert caught.value.class_ == "timed_out"
