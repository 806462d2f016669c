"""The follower, driven as a subprocess over pipes: each byte once, from any offset; gone when nobody listens."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from harness.follower import Session, append
from provision_agent.contract import frames


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntwo\n")
    return path


def test_what_is_there_comes_first_and_then_what_is_written(log: Path) -> None:
    session = Session([{"path": str(log)}])

    assert session.data(8) == (b"one\ntwo\n", 0)
    append(log, b"thr\xff")
    assert session.data(4) == (b"thr\xff", 8)
    session.close()


def test_it_goes_on_at_the_offset_that_the_other_side_proves(log: Path) -> None:
    proof = hashlib.sha256(b"one\n").hexdigest()
    session = Session([{"path": str(log), "offset": 4, "proof": proof}])

    assert session.next(frames.RESUMED).json()["resumed"] is True
    assert session.data(4) == (b"two\n", 4)
    session.close()


def test_a_proof_that_does_not_fit_is_said(log: Path) -> None:
    session = Session([{"path": str(log), "offset": 4, "proof": hashlib.sha256(b"xxx\n").hexdigest()}])

    assert session.next(frames.RESUMED).json()["resumed"] is False
    session.close()


def test_a_file_that_is_born_later_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "later.log"
    session = Session([{"path": str(path)}])
    session.next(frames.BEAT)

    path.write_bytes(b"hello\n")

    assert session.data(6) == (b"hello\n", 0)
    session.close()


def test_a_truncated_file_begins_a_new_generation(log: Path) -> None:
    session = Session([{"path": str(log)}])
    session.data(8)

    log.write_bytes(b"new\n")

    assert session.next(frames.GENERATION).json()["generation"] == 1
    frame = session.next(frames.DATA)
    assert (frame.generation, frame.offset, frame.payload) == (1, 0, b"new\n")
    session.close()


def test_it_ends_when_the_other_side_is_gone(log: Path) -> None:
    session = Session([{"path": str(log)}])
    session.data(8)

    session.close()

    assert session.child.returncode == 0


def test_a_run_whose_folder_was_deleted_is_said_after_its_last_bytes(tmp_path: Path) -> None:
    core = tmp_path / ".provision" / "runs" / "a" / "core.log"
    core.parent.mkdir(parents=True)
    core.write_bytes(b"one\n")
    session = Session([{"path": str(core)}], workspace=tmp_path)
    assert session.data(4)[0] == b"one\n"

    with core.open("ab") as log:
        shutil.rmtree(tmp_path / ".provision")
        log.write(b"two\n")

    assert session.data(4)[0] == b"two\n"
    facts = session.next(frames.ERROR).json()
    assert facts == {"cause": "folder-gone", "folder": str(core.parent)}
    session.close()


def test_a_folder_that_is_not_there_yet_is_waited_for_when_it_is_no_runs(tmp_path: Path) -> None:
    log = tmp_path / "later" / "a.log"
    session = Session([{"path": str(log)}])
    session.next(frames.BEAT)

    log.parent.mkdir()
    log.write_bytes(b"hello\n")

    assert session.data(6)[0] == b"hello\n"
    session.close()
