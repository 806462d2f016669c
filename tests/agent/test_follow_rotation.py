"""The follower through every rotation: which file comes next, and what cannot come any more."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from harness.follower import Session, append
from provision_agent.contract import frames
from provision_agent.contract.log_names import rotated_name
from provision_agent.tail import log_file, rotation
from provision_agent.tail.inotify import Inotify
from provision_agent.tail.log_file import Source
from provision_agent.tail.log_tail import Followed
from provision_agent.tail.rotation import Claim, is_edited, later, locate, siblings, written_before

LONG = b"a line of this log, longer than nothing\n" * 40


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "a.log"
    path.write_bytes(LONG)
    return path


def claim(data: bytes, **more: Any) -> dict[str, Any]:
    """The entry of a receiver that has *data*."""
    proof = hashlib.sha256(data[-frames.PROOF_BYTES :]).hexdigest()
    return {"offset": len(data), "proof": proof, **more}


def identity(path: Path) -> dict[str, int]:
    return {"dev": path.stat().st_dev, "ino": path.stat().st_ino}


def rotate(log: Path, *, by_copy: bool = False) -> None:
    for number in (3, 2, 1):
        old = log.with_name(f"a.log.{number}")
        if old.exists():
            old.rename(log.with_name(f"a.log.{number + 1}"))
    if by_copy:
        shutil.copyfile(str(log), str(log) + ".1")
        os.truncate(log, 0)
    else:
        log.rename(log.with_name("a.log.1"))


def test_the_rest_of_a_renamed_file_comes_before_its_successor(log: Path) -> None:
    session = Session([{"path": str(log)}])
    assert session.data(len(LONG)) == (LONG, 0)
    rotate(log)
    append(log.with_name("a.log.1"), b"late\n")
    assert session.data(5) == (b"late\n", len(LONG))
    append(log, b"new\n")

    facts = session.next(frames.GENERATION).json()
    assert (facts["generation"], facts["why"], facts["lost_bytes"]) == (1, "rotated", 0)
    assert session.data(4) == (b"new\n", 0)
    session.close()


def test_bytes_for_a_file_whose_successor_has_begun_are_counted_as_late(log: Path) -> None:
    session = Session([{"path": str(log)}])
    session.data(len(LONG))
    rotate(log)
    append(log, b"new\n")
    session.data(4)
    append(log.with_name("a.log.1"), b"too late\n")

    while session.next(frames.BEAT).json()["late"] != [9]:
        pass
    session.close()


def test_a_file_written_anew_and_longer_is_known_by_its_bytes(log: Path) -> None:
    session = Session([{"path": str(log)}])
    session.data(len(LONG))
    log.write_bytes(b"x" * 2 * len(LONG))

    assert session.next(frames.GENERATION).json()["why"] == "truncated"
    assert session.data(2 * len(LONG)) == (b"x" * 2 * len(LONG), 0)
    session.close()


def test_after_a_resume_every_rotated_file_comes_in_order(log: Path) -> None:
    entry = claim(LONG[:100], **identity(log))
    rotate(log)
    log.write_bytes(b"second\n")
    rotate(log)
    log.write_bytes(b"third\n")
    rotate(log, by_copy=True)
    append(log, b"fourth\n")
    session = Session([{"path": str(log), **entry}])

    assert session.next(frames.RESUMED).json()["resumed"] is True
    assert session.data(len(LONG) - 100) == (LONG[100:], 100)
    for data in (b"second\n", b"third\n", b"fourth\n"):
        assert session.next(frames.GENERATION).json()["lost_bytes"] == 0
        assert session.data(len(data)) == (data, 0)
    session.close()


def compress(path: Path) -> Path:
    """As gzip does: the copy has the time of what it was made of, which is gone."""
    subprocess.run(["gzip", str(path)], check=True, timeout=10)
    return path.with_name(path.name + ".gz")


def sent_in_order(session: Session, *generations: bytes, start: int = 0) -> None:
    """*generations* come, the first from *start*, and nothing is lost between them."""
    first, *others = generations
    assert session.data(len(first) - start) == (first[start:], start)
    for data in others:
        assert session.next(frames.GENERATION).json()["lost_bytes"] == 0
        assert session.data(len(data)) == (data, 0)


def test_after_a_resume_files_that_were_compressed_meanwhile_are_read_where_the_receiver_ends(
    log: Path,
) -> None:
    entry = claim(LONG[:100], **identity(log))
    for data in (b"second\n", b"third\n"):
        rotate(log)
        log.write_bytes(data)
    compress(log.with_name("a.log.1"))
    compress(log.with_name("a.log.2"))
    session = Session([{"path": str(log), **entry}])

    assert session.next(frames.RESUMED).json()["resumed"] is True
    sent_in_order(session, LONG, b"second\n", b"third\n", start=100)
    session.close()


def test_a_rotated_file_that_is_compressed_at_once_is_sent_once(log: Path) -> None:
    session = Session([{"path": str(log)}])
    session.data(len(LONG))
    rotate(log)
    compress(log.with_name("a.log.1"))
    append(log, b"second\n")
    assert session.next(frames.GENERATION).json()["lost_bytes"] == 0
    assert session.data(7) == (b"second\n", 0)
    os.rename(log.with_name("a.log.1.gz"), log.with_name("a.log.2.gz"))
    rotate(log)
    compress(log.with_name("a.log.1"))
    append(log, b"third\n")

    assert session.next(frames.GENERATION).json()["generation"] == 2
    assert session.data(6) == (b"third\n", 0)
    session.close()


def test_what_was_unread_of_a_truncated_file_is_read_from_its_compressed_copy(log: Path) -> None:
    sent: list[bytes] = []
    followed = Followed(0, frames.FollowedFile(str(log)), sent.append, Inotify())
    followed.begin()
    while followed.unread():
        followed.send()
    append(log, b"unread\n")
    rotate(log, by_copy=True)
    compress(log.with_name("a.log.1"))
    append(log, b"new\n")
    while followed.send():
        pass

    assert b"".join(sent).count(b"unread\n") == 1
    assert sent[-1].endswith(b"new\n")


def test_of_a_broken_compressed_file_the_rest_is_a_gap_with_its_size(log: Path) -> None:
    data = os.urandom(600_000)
    log.write_bytes(data)
    entry = claim(data[:100], **identity(log))
    rotate(log)
    log.write_bytes(b"new\n")
    packed = compress(log.with_name("a.log.1"))
    times = packed.stat().st_mtime_ns
    whole = packed.read_bytes()
    packed.write_bytes(whole[:300_000] + bytes(8) + whole[300_008:])
    with packed.open("r+b") as file:  # its end, with the size, is still there
        file.seek(200_000)
        file.write(b"\xff" * 100_000)
    os.utime(packed, ns=(times, times))
    session = Session([{"path": str(log), **entry}])
    session.next(frames.RESUMED)

    got = 0
    while (frame := next(session._frames)).kind != frames.GENERATION:
        got += len(frame.payload) if frame.kind == frames.DATA else 0

    assert got + frame.json()["lost_bytes"] == len(data) - 100
    assert session.data(4) == (b"new\n", 0)
    session.close()


def test_a_compressed_file_that_did_not_keep_its_time_has_no_place_in_the_order(log: Path) -> None:
    rotate(log)
    log.write_bytes(b"new\n")
    packed = compress(log.with_name("a.log.1"))
    os.utime(packed, (1, 1))

    assert siblings(str(log)) == []


def test_a_large_search_in_a_compressed_file_shows_life(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "TICK_S", 0.0)
    data = os.urandom(1_000_000)
    log.write_bytes(data)
    entry = claim(data[:-5], **identity(log))
    rotate(log)
    compress(log.with_name("a.log.1"))
    log.write_bytes(b"new\n")
    sent: list[bytes] = []
    followed = Followed(0, frames.FollowedFile(str(log), **entry), sent.append, Inotify())

    followed.begin()

    assert frames.data_head(0, 0, len(data) - 5, 0) in sent[:-1]


def test_a_resume_of_nothing_that_is_left_is_a_gap_with_its_size(log: Path) -> None:
    entry = claim(LONG[:100], known_bytes=len(LONG), **identity(log))
    log.write_bytes(b"something else entirely\n" * 100)
    session = Session([{"path": str(log), "generation": 4, **entry}])

    said = session.next(frames.RESUMED).json()
    assert (said["resumed"], said["edited"]) == (False, False)
    facts = session.next(frames.GENERATION).json()
    assert (facts["generation"], facts["lost_bytes"]) == (5, len(LONG) - 100)
    assert session.data(6) == (b"something else entirely\n" * 100, 0)
    session.close()


def test_a_receiver_whose_bytes_were_edited_is_told(log: Path) -> None:
    samples = [(at, 20, hashlib.sha256(LONG[at : at + 20]).hexdigest()) for at in (0, 100, 200)]
    entry = claim(LONG[:300] + b"mine", samples=samples)

    assert is_edited(str(log), Claim.of(frames.FollowedFile(str(log), **entry)))
    session = Session([{"path": str(log), **entry}])
    assert session.next(frames.RESUMED).json()["edited"] is True
    session.close()


def test_an_inode_that_is_used_again_does_not_pass_for_the_old_file(log: Path) -> None:
    entry = claim(LONG[:100], **identity(log))
    log.write_bytes(b"y" * 5000)

    assert locate(str(log), Claim.of(frames.FollowedFile(str(log), **entry))) is None


def test_a_link_that_points_to_another_file_begins_a_generation(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("one", "two"):
        (tmp_path / "runs" / name).write_bytes(name.encode())
    link = tmp_path / "core.log"
    link.symlink_to("runs/one")
    session = Session([{"path": str(link)}])
    assert session.data(3)[0] == b"one"
    append(tmp_path / "runs" / "one", b"!")
    assert session.data(1)[0] == b"!"

    (tmp_path / "new").symlink_to("runs/two")
    (tmp_path / "new").rename(link)

    assert session.data(3) == (b"two", 0)
    session.close()


def test_a_question_is_answered_by_a_beat_at_once(log: Path) -> None:
    session = Session([{"path": str(log)}], heartbeat_s=30)
    session.next(frames.BEAT)
    assert session.child.stdin is not None
    session.child.stdin.write(b"?")
    session.child.stdin.flush()

    assert session.next(frames.BEAT).json()["unread"] == [0]
    session.close()


NAMES = {
    "a.log": (["a.log.1", "a.log.12", "a.log-20260101", "a.log.old", "a.1.log", "a-2026-01-01T10:00:00.log", "a.log~"],
              ["a.log", "ab.log.1", "a.log.gz", "a.log.1.gz", "a.errors.log", "a.log.part", "xa.log.1"]),
    "log": (["log.1", "log-1"], ["log", "logs.1", "log.txt"]),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NAMES))
def test_rotated_files_are_known_by_their_names(name: str) -> None:
    rotated, others = NAMES[name]

    assert [other for other in rotated if not rotated_name(name).match(other)] == []
    assert [other for other in others if rotated_name(name).match(other)] == []


def test_siblings_come_the_oldest_first_also_when_they_are_of_one_moment(log: Path) -> None:
    for number in (1, 2, 10):
        path = log.with_name(f"a.log.{number}")
        path.write_bytes(b"x")
        os.utime(path, (1000, 1000))

    assert [Path(each.path).name for each in siblings(str(log))] == ["a.log.10", "a.log.2", "a.log.1"]


def test_names_that_change_hands_while_they_are_opened_are_looked_at_again(log: Path) -> None:
    rotate(log)
    log.write_bytes(b"second\n")
    looked: list[int] = []

    def look() -> list[Source]:
        chain = [Source.open(sibling.path) for sibling in siblings(str(log))]
        if not looked:
            rotate(log)  # what was second has the name now that the first had
            log.write_bytes(b"third\n")
        looked.append(len(chain))
        return [source for source in [*chain, Source.open(str(log))] if source is not None]

    chain = rotation._looked(str(log), look)

    assert [source.size for source in chain] == [len(LONG), 7, 6]
    for source in chain:
        source.close()


def test_a_backup_copy_is_no_generation(log: Path) -> None:
    found = Source.open(str(log))
    assert found is not None
    shutil.copyfile(str(log), str(log) + ".bak")

    assert later(str(log), found) == []
    found.close()


def test_an_older_file_belongs_to_the_log_when_its_writer_still_lives(log: Path) -> None:
    with log.open("ab"):
        rotate(log)
        append(log, b"new\n")
        ours, foreign_bytes = written_before(str(log))
        assert ([Path(each.path).name for each in ours], foreign_bytes) == (["a.log.1"], 0)

    assert written_before(str(log)) == ([], len(LONG)), "nobody lives who could have written it"


def test_what_was_written_just_before_the_successor_began_is_not_left_behind(log: Path) -> None:
    sent: list[bytes] = []
    followed = Followed(0, frames.FollowedFile(str(log)), sent.append, Inotify())
    followed.begin()
    while followed.unread():
        followed.send()
    source = followed._current
    assert source is not None
    assert source.read() == b""  # the follower has just seen the end, and then:
    append(log, b"the last words\n")
    rotate(log)
    append(log, b"new\n")

    followed._move_on(source)

    assert sent[-1].endswith(b"the last words\n")


WITHOUT_INOTIFY = (
    "unshare",
    "-Ur",
    "sh",
    "-c",
    'echo 0 > /proc/sys/user/max_inotify_instances; exec "$@"',
    "sh",
)


def test_without_inotify_it_looks_often(log: Path) -> None:
    if subprocess.run([*WITHOUT_INOTIFY, "true"], capture_output=True, timeout=10).returncode:
        pytest.skip("this machine does not let its users make namespaces")
    session = Session([{"path": str(log)}], before=WITHOUT_INOTIFY)
    session.data(len(LONG))
    took_s = []
    for _ in range(10):
        began = time.monotonic()
        append(log, b"x")
        session.data(1)
        took_s.append(time.monotonic() - began)

    assert sorted(took_s)[5] < 0.25, "an idle follower with inotify would have looked after half a second"
    session.close()
