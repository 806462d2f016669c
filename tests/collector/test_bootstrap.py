"""The bootstrap on an instance with other users: it runs what was sent, from where nobody else can change it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from provision_collector.instance import build_bundle, deploy

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder another user's")
FACTS = json.dumps({"workspace": "/nowhere"}).encode() + b"\n"


def begin(folder: Path, *, before: Callable[[], None] = lambda: None) -> tuple[dict[str, object], bytes, int]:
    """One start as the collector does it; *before* is done between the hello and the archive. Hello, rest, exit code."""
    bundle = build_bundle()
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", deploy._BOOTSTRAP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    assert child.stdin and child.stdout
    head = {
        "sha256": bundle.sha256,
        "size": len(bundle.data),
        "folders": [str(folder)],
        "arguments": ["status"],
    }
    child.stdin.write(json.dumps(head).encode() + b"\n")
    child.stdin.flush()
    child.stdout.readline()
    hello = json.loads(child.stdout.readline().partition(b" ")[2])
    before()
    try:
        child.stdin.write((b"" if hello.get("have") or hello.get("error") else bundle.data) + FACTS)
        rest = child.communicate(timeout=60)[0]
    except BrokenPipeError:
        rest = child.communicate(timeout=60)[0]
    return hello, rest, child.returncode


@NEEDS_ROOT
@pytest.mark.parametrize("whose", [".provision", ".provision/agent"])
def test_a_folder_that_another_user_made_first_is_refused_and_named(whose, tmp_path: Path) -> None:
    folder = tmp_path / ".provision/agent"
    (tmp_path / whose).mkdir(parents=True)
    os.chown(tmp_path / whose, 65534, 65534)

    hello, _, code = begin(folder)

    assert (hello["error"], code) == (f"{tmp_path / whose} belongs to another user (uid 65534)", 1)
    assert not list(tmp_path.rglob("*.pyz"))
    assert os.stat(tmp_path / whose).st_uid == 65534


@pytest.mark.parametrize("which", [".provision", ".provision/agent"])
def test_a_link_in_place_of_a_folder_is_refused_and_named(which, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / which).parent.mkdir(exist_ok=True)
    (tmp_path / which).symlink_to(tmp_path / "theirs")

    hello, _, code = begin(tmp_path / ".provision/agent")

    assert (hello["error"], code) == (f"{tmp_path / which} is a link", 1)
    assert list((tmp_path / "theirs").iterdir()) == []


@NEEDS_ROOT
def test_an_archive_of_another_user_is_not_run_though_its_bytes_are_right(tmp_path: Path) -> None:
    folder = tmp_path / ".provision/agent"
    folder.mkdir(parents=True)
    archive = folder / f"{build_bundle().sha256}.pyz"
    archive.write_bytes(build_bundle().data)
    os.chown(archive, 65534, 65534)

    hello, rest, code = begin(folder)

    assert (hello["have"], code) == (False, 0)
    assert os.stat(archive).st_uid == 0
    assert b"provision-answer" in rest


def test_what_runs_is_what_was_checked_whatever_becomes_of_its_name(tmp_path: Path) -> None:
    """The name is taken by another file as soon as the check is over: what was checked goes on."""
    folder, flag = tmp_path / ".provision/agent", tmp_path / "ran"
    begin(folder)
    archive = folder / f"{build_bundle().sha256}.pyz"
    other = folder / "other"
    other.write_text(f"open({str(flag)!r}, 'w')\n")
    swap = f"import os; os.replace({str(other)!r}, {str(archive)!r})\n"
    program = deploy._BOOTSTRAP.replace("os.execv(", swap + "os.execv(")
    head = {"sha256": build_bundle().sha256, "size": 0, "folders": [str(folder)], "arguments": ["status"]}

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        input=json.dumps(head).encode() + b"\n" + FACTS,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert b"provision-answer" in done.stdout, done.stderr
    assert not flag.exists()
