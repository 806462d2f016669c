"""A mirror is continued exactly where it ends, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from provision_collector.errors import LocalMachineError, UsageError
from provision_collector.mirror import Mirror, MirrorBusyError, MirrorState


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
