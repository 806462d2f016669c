"""A mirror is continued exactly where it ends, or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from provision_collector.errors import LocalMachineError, UsageError
from provision_collector.mirror import FileFacts, Mirror, MirrorBusyError, MirrorFullError, MirrorState


def opened(folder: Path) -> Mirror:
    return Mirror(folder / "m.log", MirrorState(folder / "m.state.json"), "core")


def test_bytes_that_come_twice_are_written_once(tmp_path: Path) -> None:
    mirror = opened(tmp_path)
    mirror.append(0, 0, b"hello ")

    assert mirror.append(0, 3, b"lo wor") == 3
    assert mirror.append(0, 0, b"hel") == 0
    mirror.append(0, 9, b"ld")

    assert mirror.path.read_bytes() == b"hello world"
    mirror.close()


def test_missing_bytes_are_never_passed_over(tmp_path: Path) -> None:
    mirror = opened(tmp_path)
    mirror.append(0, 0, b"abc")

    with pytest.raises(ValueError, match="does not follow"):
        mirror.append(0, 5, b"f")

    assert mirror.path.read_bytes() == b"abc"
    mirror.close()


def test_a_new_generation_is_appended_and_survives_a_restart(tmp_path: Path) -> None:
    mirror = opened(tmp_path)
    mirror.append(0, 0, b"old\n")
    mirror.begin_generation(1)
    mirror.append(1, 0, b"ne")
    mirror.close()

    mirror = opened(tmp_path)

    assert (mirror.generation, mirror.offset) == (1, 2)
    mirror.append(1, 2, b"w\n")
    assert mirror.path.read_bytes() == b"old\nnew\n"
    mirror.close()


def test_one_process_writes_a_mirror(tmp_path: Path) -> None:
    first = opened(tmp_path)

    with pytest.raises(MirrorBusyError):
        opened(tmp_path)

    first.close()
    opened(tmp_path).close()


def test_a_mirror_that_is_edited_meanwhile_is_not_continued(tmp_path: Path) -> None:
    mirror = opened(tmp_path)
    mirror.append(0, 0, b"abc")
    with mirror.path.open("ab") as file:
        file.write(b"mine")

    with pytest.raises(UsageError, match="edited"):
        mirror.append(0, 3, b"def")
    mirror.close()


def test_a_mirror_cut_below_its_generation_is_refused(tmp_path: Path) -> None:
    mirror = opened(tmp_path)
    mirror.append(0, 0, b"abcdef")
    mirror.begin_generation(1)
    mirror.close()
    mirror.path.write_bytes(b"ab")

    with pytest.raises(UsageError, match="edited or cut"):
        opened(tmp_path)


def test_a_folder_that_cannot_be_written_is_this_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(LocalMachineError):
        Mirror(tmp_path / "no" / "m.log", MirrorState(tmp_path / "s.json"), "core")


async def test_a_byte_that_was_changed_anywhere_is_noticed(tmp_path: Path) -> None:
    mirror = opened(tmp_path)
    mirror.append(0, 0, b"x" * 3_000_000)
    await mirror.seal()
    mirror.close()
    opened(tmp_path).close()
    data = bytearray(mirror.path.read_bytes())
    data[1_000_003] = 0
    mirror.path.write_bytes(data)

    with pytest.raises(UsageError, match="edited"):
        opened(tmp_path)


def test_a_mirror_stops_at_the_size_that_it_may_have_and_goes_on_with_more(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m.log", MirrorState(tmp_path / "s.json"), "log", max_bytes=5)

    with pytest.raises(MirrorFullError):
        mirror.append(0, 0, b"hello world")
    assert mirror.path.read_bytes() == b"hello"
    mirror.close()

    mirror = Mirror(tmp_path / "m.log", MirrorState(tmp_path / "s.json"), "log", max_bytes=50)
    mirror.append(0, 5, b" world")
    assert mirror.path.read_bytes() == b"hello world"
    mirror.close()


def test_a_mirror_leaves_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provision_collector.mirror.mirror.SHARE_IN_RESERVE", 1)  # all of this disk
    mirror = Mirror(tmp_path / "m.log", MirrorState(tmp_path / "s.json"), "log", reserve_bytes=1 << 62)

    assert mirror.is_full
    with pytest.raises(MirrorFullError, match="nearly full"):
        mirror.append(0, 0, b"hello")
    assert mirror.path.read_bytes() == b""
    mirror.close()


def test_what_it_claims_finds_the_file_again(tmp_path: Path) -> None:
    mirror = opened(tmp_path)
    mirror.begin_generation(1, FileFacts(3, 4, 5.0))
    mirror.append(1, 0, b"abc" * 100)
    mirror.close()

    mirror = opened(tmp_path)
    claim = mirror.claim("/m.log")

    assert (claim.offset, claim.generation, claim.dev, claim.ino, claim.since) == (300, 1, 3, 4, 5.0)
    assert claim.proof == hashlib.sha256(b"abc" * 100).hexdigest()
    assert all(
        hashlib.sha256((b"abc" * 100)[at : at + size]).hexdigest() == proof
        for at, size, proof in claim.samples
    )
    mirror.close()


async def test_a_mirror_whose_record_is_unreadable_must_match_and_the_record_is_set_aside(
    tmp_path: Path,
) -> None:
    mirror = opened(tmp_path)
    mirror.append(0, 0, b"abc")
    await mirror.seal()
    mirror.close()
    (tmp_path / "m.state.json").write_text("{torn")

    mirror = opened(tmp_path)

    assert mirror.claim("/m.log").must_match is True
    assert (tmp_path / "m.state.json.unreadable").exists()
    mirror.close()


def test_a_mirror_belongs_to_one_remote_log(tmp_path: Path) -> None:
    mirror = opened(tmp_path)
    mirror.belongs_to("/a.log")
    mirror.close()

    mirror = opened(tmp_path)
    with pytest.raises(UsageError, match="is the mirror of"):
        mirror.belongs_to("/b.log")
    mirror.close()
