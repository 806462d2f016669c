"""The bootstrap on an instance with other users: it runs what was sent, from where nobody else can change it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from interpreters import interpreters
from provision_agent.contract.loading import loader
from provision_collector.instance import Deployment, build_bundle, deploy

PYTHONS = {".".join(map(str, version)): path for version, path in interpreters().items()}
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder another user's")
FACTS = json.dumps({"workspace": "/nowhere"}).encode() + b"\n"


def begin(folder: Path, *, before: Callable[[], None] = lambda: None) -> tuple[dict[str, object], bytes, int]:
    """One start as the collector does it; *before* is done between the hello and the archive. Hello, rest, exit code."""
    bundle = build_bundle()
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", deploy.BOOTSTRAP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    assert child.stdin and child.stdout
    head = deploy.head_of(bundle, [str(folder)], ["status"])
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
    program = deploy.BOOTSTRAP.replace("os.execv(", swap + "os.execv(")
    head = deploy.head_of(build_bundle(), [str(folder)], ["status"])

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        input=json.dumps(head).encode() + b"\n" + FACTS,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert b"provision-answer" in done.stdout, done.stderr
    assert not flag.exists()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / f"{build_bundle().sha256}.pyz"
    path.write_bytes(build_bundle().data)
    return path


def later(archive: Path) -> subprocess.CompletedProcess[bytes]:
    """A later start, by the login shell of an instance."""
    command = Deployment(sys.executable, str(archive), build_bundle().sha256).command("status")
    return subprocess.run(["sh", "-c", command], input=FACTS, capture_output=True, timeout=60, check=False)


def test_a_later_start_runs_what_was_sent_or_nothing(archive: Path, tmp_path: Path) -> None:
    assert b"provision-answer" in later(archive).stdout

    flag = tmp_path / "ran"
    archive.write_text(f"open({str(flag)!r}, 'w')\n")
    changed = later(archive)
    assert (changed.returncode, changed.stdout) == (3, b"")
    assert (
        changed.stderr.decode() == f"the agent's file '{archive}' is not what was sent: somebody changed it\n"
    )

    real = archive.rename(tmp_path / "elsewhere")
    real.write_bytes(build_bundle().data)
    archive.symlink_to(real)
    link = later(archive)
    assert (link.returncode, link.stdout) == (3, b"")
    archive.unlink()
    os.mkfifo(archive)
    assert later(archive).returncode == 3, "a pipe holds up nobody"
    archive.unlink()
    gone = later(archive)
    assert (gone.returncode, gone.stdout) == (2, b"")
    assert b"can't open file" in gone.stderr
    assert not flag.exists()


@pytest.mark.parametrize("version", sorted(PYTHONS))
def test_modules_that_are_wanted_later_come_from_the_bytes_that_were_checked(
    version: str, archive: Path, tmp_path: Path
) -> None:
    main = (
        "import provision_agent; print('begun', flush=True); sys.stdin.readline(); import provision_agent.run.run, linecache; "
        "from provision_agent.host.detach import agent_argv, own_sha256; print(own_sha256(), agent_argv('keep')[-3:]); "
        "print(provision_agent.run.run.__file__, bool(linecache.getlines(provision_agent.run.run.__file__, vars(provision_agent.run.run))))"
    )
    words = [PYTHONS[version], "-I", "-S", "-c", loader(main), str(archive), build_bundle().sha256]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == "begun\n"
        archive.write_text("raise SystemExit('somebody else')")
        said = child.communicate("\n", timeout=60)[0].splitlines()

    sha256 = build_bundle().sha256
    assert said == [
        f"{sha256} {[str(archive), sha256, 'keep']}",
        f"{archive}/provision_agent/run/run.py True",
    ]
