"""Watches one service: a process of its own that needs neither the agent nor its keeper.

It reads what to run as JSON on stdin, writes what became of it to a status file, and ends when the program has
ended for good or when it is told to by TERM; then nothing of the program is left. It sleeps in the kernel until a
signal comes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional

from . import detach, process
from .state import write_atomically

BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
SHORT_LIFE_S = 60.0
MAX_SHORT_LIVES = 5
"""A program that ended this often in a row, each time before `SHORT_LIFE_S`, is in a crash loop."""

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGALRM)


def supervise_main(argv: List[str]) -> int:
    """Entry of the subcommand ``supervise``; the order comes on stdin, see `Supervisor`."""
    return Supervisor(json.load(sys.stdin)).run()


class Supervisor:
    """One program and its restarts.

    The order has ``argv``, ``directory``, ``environment`` (additions), ``restart`` (never | on_failure), ``backoff_s``,
    ``status`` (path) and ``note`` (copied into the status).
    """

    def __init__(self, order: Dict[str, Any]) -> None:
        self._order = order
        self._starts = 0
        self._short_lives = 0

    def run(self) -> int:
        """Watch until the end; 0 when the program ended well or was stopped."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # sigwait takes them, no handler can interrupt
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while True:
            child = self._start()
            if child is None:
                return 1
            started = time.monotonic()
            if self._stopped(child):
                process.end_group(child)
                self._write("stopped", child)
                return 0
            lived_s = time.monotonic() - started
            process.end_group(child)  # what it left behind would hold the port
            self._short_lives = self._short_lives + 1 if lived_s < SHORT_LIFE_S else 1
            if child.returncode == 0 or self._order["restart"] == "never":
                self._write("exited", child)
                return int(child.returncode != 0)
            if self._short_lives >= MAX_SHORT_LIVES:
                self._write("gave_up", child)
                return 1
            if not self._pause(child):
                return 0

    def _start(self) -> "Optional[subprocess.Popen[bytes]]":
        argv = self._order["argv"]
        try:
            child = subprocess.Popen(
                argv,
                cwd=self._order["directory"],
                env=process.child_environment(self._order["environment"]),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_unblock_signals,  # safe: this process has one thread
            )
        except OSError as error:
            self._write("not_started", None, message=f"cannot start `{argv[0]}`: {error.strerror}")
            return None
        self._starts += 1
        self._write("running", child)
        return child

    def _stopped(self, child: "subprocess.Popen[bytes]") -> bool:
        """Wait until the program ends by itself (False) or this process is told to stop (True)."""
        while child.poll() is None:
            if signal.sigwait(_SIGNALS) in (signal.SIGTERM, signal.SIGINT):
                return True
        return False

    def _pause(self, child: "subprocess.Popen[bytes]") -> bool:
        """Wait before the next start; False when told to stop meanwhile."""
        wait_s = min(self._order["backoff_s"] * 2.0 ** (self._short_lives - 1), MAX_BACKOFF_S)
        print(f"[supervise] ended with {child.returncode}; starting again in {wait_s:.1f} s", flush=True)
        self._write("restarting", child)
        signal.setitimer(signal.ITIMER_REAL, max(wait_s, 0.001))
        while True:
            met = signal.sigwait(_SIGNALS)
            if met == signal.SIGALRM:
                return True
            if met != signal.SIGCHLD:
                self._write("stopped", child)
                return False

    def _write(self, state: str, child: "Optional[subprocess.Popen[bytes]]", *, message: str = "") -> None:
        status = {
            "state": state,
            "note": self._order["note"],
            "supervisor": detach.Identity.of(os.getpid()).as_json(),
            "child": None if child is None else detach.Identity.of(child.pid).as_json(),
            "starts": self._starts,
            "exit_status": None if child is None else child.returncode,
            "message": message,
        }
        write_atomically(self._order["status"], json.dumps(status).encode(), sync=False)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
