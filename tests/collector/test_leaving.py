"""How the program ends: with its exit code and its last words, and without taking apart what it has loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading
from provision_collector.cli import main

class Held:
    def __del__(self, write=sys.stderr.write):
        write("taken apart;")

held = Held()
atexit.register(sys.stderr.write, "exit handler;")
THREAD
sys.argv = ["provision", *WORDS]
main()
"""
THREAD = "threading.Timer(0.2, sys.stderr.write, ['thread;']).start()"


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["check", "./not-there.yaml"], 3)])
def test_a_command_ends_at_once_with_its_code_its_output_and_its_exit_handlers(words, code) -> None:
    program = PROGRAM.replace("WORDS", repr(words)).replace("THREAD", "")

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert done.returncode == code
    assert done.stdout.startswith("provision") == (code == 0)
    assert done.stderr.endswith("exit handler;")


def test_a_command_waits_for_a_thread_that_still_works() -> None:
    program = PROGRAM.replace("WORDS", "['--version']").replace("THREAD", THREAD)

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0
    assert "thread;" in done.stderr
