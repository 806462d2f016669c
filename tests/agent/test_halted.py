"""Programs that stand still, and what is said after them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from harness.agent_runs import until
from provision_agent.host import halted

TWO_PROCESSES = r"""
import os, subprocess, sys, threading
subprocess.Popen([sys.executable, "-c", "import os; os.write(1, b'second' + bytes([10]))\nwhile True: pass"])
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
os.write(1, b"first\n")
spin()
"""


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-c", TWO_PROCESSES], stdout=subprocess.PIPE, start_new_session=True
    )
    yield child
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def test_a_line_that_is_said_for_a_halted_program_comes_after_all_its_own(
    program: subprocess.Popen[bytes],
) -> None:
    assert program.stdout is not None
    lines = {program.stdout.readline() for _ in range(2)}
    assert not halted.is_halted(program.pid)

    os.killpg(program.pid, signal.SIGSTOP)
    until(lambda: halted.is_halted(program.pid))

    assert halted.say_for(program.pid, b"third\n")
    assert (lines, program.stdout.readline()) == ({b"first\n", b"second\n"}, b"third\n")


def test_nothing_is_said_for_a_program_whose_output_is_no_pipe() -> None:
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        assert not halted.say_for(child.pid, b"words\n")
        child.kill()
    assert not halted.say_for(child.pid, b"words\n")
