"""Atomic writes, private modes and locks between processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from provision_collector import storage


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = storage.private_folder(tmp_path / "a" / "b")
    path = folder / "file.json"
    storage.write_atomically(path, "one")
    storage.write_atomically(path, b"two", durable=False)
    assert path.read_text() == "two"
    assert (mode_of(path), mode_of(folder)) == (0o600, 0o700)
    assert [each.name for each in folder.iterdir()] == ["file.json"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    storage.write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        storage.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = {character * 200_000 for character in "ab"}
    storage.write_atomically(path, "a" * 200_000)
    program = (
        "import itertools, pathlib, sys; from provision_collector import storage\n"
        "print(flush=True)\n"
        "for text in itertools.cycle('ab'): "
        "storage.write_atomically(pathlib.Path(sys.argv[1]), text * 200_000, durable=False)"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            for _ in range(20):
                assert path.read_text() in texts
            writer.send_signal(signal.SIGKILL)
        assert path.read_text() in texts


def test_of_many_that_create_one_file_one_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        told = pool.starmap(storage.create_atomically, [(path, str(number)) for number in range(40)])
    assert sorted(told) == [False] * 39 + [True]
    assert path.read_text() == str(told.index(True))


def test_a_lock_that_another_process_holds_is_waited_for_within_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "lock"
    program = (
        "import pathlib, sys; from provision_collector import storage\n"
        "with storage.FileLock(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()
        began = time.monotonic()
        with pytest.raises(storage.LockBusyError, match=r"for 0\.5 s"):
            storage.FileLock(path, wait_s=0.5).acquire()
        assert 0.5 <= time.monotonic() - began < 10
        holder.kill()
        with storage.FileLock(path, wait_s=10):  # a lock ends with its holder
            pass
    assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)


async def test_who_waits_for_a_lock_holds_up_nobody_and_leaves_nothing_when_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = storage.FileLock(path)
    async with held:
        waiting = asyncio.create_task(storage.FileLock(path, wait_s=20).acquire_async())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with storage.FileLock(path, wait_s=10):
        pass
