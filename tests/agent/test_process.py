"""Children end within their bound, with everything that they started."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from provision_agent.contract.failures import Failure
from provision_agent.contract.parsing import parse, to_json
from provision_agent.host import process, process_stat
from provision_agent.host.detach import Identity, spawn_detached


def test_the_last_lines_and_the_status_are_kept() -> None:
    lines: list[str] = []

    done = process.run(
        ["sh", "-c", "seq 30; printf 'half\\rdone'; exit 3"], timeout_s=10, on_line=lines.append
    )

    assert done.status == 3
    assert done.tail[-2:] == ["half", "done"]
    assert len(done.tail) == process.TAIL_LINES
    assert lines[0] == "1"


def test_a_program_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    with pytest.raises(Failure) as failure:
        process.run(["sh", "-c", f"sleep 1000 & echo $! > {pid_file}; echo started; wait"], timeout_s=1.0)

    assert failure.value.class_ == "timed_out"
    assert "started" in failure.value.message
    assert not Identity.of(int(pid_file.read_text())).is_alive()


def test_cancelling_ends_a_child_soon() -> None:
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()

    with pytest.raises(Failure):
        process.run(["sleep", "1000"], timeout_s=25, cancelled=cancelled)


def test_a_missing_program_is_named() -> None:
    with pytest.raises(Failure, match="cannot start `no-such-program`"):
        process.run(["no-such-program"], timeout_s=1)


def test_a_grandchild_that_keeps_the_pipe_does_not_hold_us() -> None:
    done = process.run(["sh", "-c", "setsid sleep 20 & echo ok"], timeout_s=10)

    assert done.tail == ["ok"]
    assert done.duration_s < 5


def test_a_detached_process_is_known_by_more_than_its_pid(tmp_path: Path) -> None:
    identity = spawn_detached([sys.executable, "-c", "input()"], log_path=str(tmp_path / "log"), stdin=None)
    sleeper = spawn_detached(["sleep", "1000"], log_path=str(tmp_path / "log"))

    assert sleeper.is_alive()
    assert os.getsid(sleeper.pid) == sleeper.pid
    assert not Identity(sleeper.pid, sleeper.start_time + 1, sleeper.boot_id).is_alive()
    assert not Identity(sleeper.pid, sleeper.start_time, "another boot").is_alive()
    assert parse(Identity, to_json(sleeper)) == sleeper
    assert sleeper.end(within_s=5)
    assert not sleeper.is_alive()
    assert identity.wait(within_s=60.0)


def test_a_secret_is_never_cut_in_two_by_a_line_that_is_too_long() -> None:
    lines: list[str] = []
    program = (
        "printf 'word %s' \"$(head -c 131057 /dev/zero | tr '\\0' x)s3cr3tVALUE\"; printf 'tail\\nnext\\n'"
    )

    process.run(["sh", "-c", program], timeout_s=10, on_line=lines.append)

    assert lines[-1] == "next"
    assert not [line for line in lines if "s3cr" in line and "s3cr3tVALUE" not in line]
    assert not [line for line in lines if "VALUE" in line and "s3cr3tVALUE" not in line]


def test_whatever_a_program_is_called_the_kernel_s_words_on_it_are_taken_apart_rightly(
    tmp_path: Path,
) -> None:
    name = "a) R (b"
    program = tmp_path / name
    program.write_text("#!/bin/sh\nread it\n")
    program.chmod(0o755)
    child = subprocess.Popen([str(program)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        told = process_stat.read(child.pid)
        assert told is not None
        assert (told.name, told.parent, told.session) == (name, os.getpid(), child.pid)
        assert told.start_ticks == Identity.of(child.pid).start_time > 0
        assert not told.has_ended
        thread = process_stat.read(child.pid, thread=child.pid)
        assert thread is not None and thread.name == name
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        zombie = process_stat.read(child.pid)
        child.communicate()
    assert zombie is not None and zombie.has_ended
    assert process_stat.read(child.pid) is None
