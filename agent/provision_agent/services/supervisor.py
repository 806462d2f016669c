"""Watches one service: a process of its own that needs neither the agent nor its keeper.

It reads what to run from a JSON file, writes what became of it to a status file and what the program says to a log
of bounded size, and ends when the program has ended for good or when it is told to by TERM; then nothing of the
program is left. It sleeps in the kernel until the program says something or a signal comes.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from typing import Dict, List, Optional

from ..contract.parsing import ParseError, to_json
from ..host import detach, process
from ..run.state import write_atomically
from . import changes
from .files import NEEDS_SECRETS, TIMED_OUT, Order, Status, read_order
from .handover import Door
from .log import STARTED_AGAIN, BoundedLog

BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
SHORT_LIFE_S = 60.0
MAX_SHORT_LIVES = 5
"""A program that ended this often in a row, each time before `SHORT_LIFE_S`, is in a crash loop."""

_PIECE_BYTES = 64 << 10
_LAST_PIECES = 16
"""What a pipe can still hold after its program's end, and more: one who escaped and talks on is not waited for."""


def supervise_main(argv: List[str]) -> int:
    """Entry of ``supervise <name> <order>``: the path of a file that holds the order, see `Supervisor`."""
    return Supervisor(read_order(argv[1]), argv[1]).run()


class Supervisor:
    """One program and its restarts."""

    def __init__(self, order: Order, path: str = "") -> None:
        self._order = order
        self._path = path
        self._secrets: Dict[str, str] = {}
        self._loaded: Optional[int] = None
        self._log = BoundedLog(order.log, order.max_log_bytes)
        self._starts = 0
        self._lived_s: Optional[float] = None
        self._lacks_secrets = False
        self._short_lives = 0
        self._is_told_to_stop = False
        self._is_told_to_restart = False
        self._wakeups, wake = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeups, selectors.EVENT_READ)
        for descriptor in (self._wakeups, wake):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self._take_stop)
        signal.signal(signal.SIGUSR1, self._take_restart)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, so that the wakeup is written

    def run(self) -> int:
        """Watch until the end; 0 when the program ended well or was stopped."""
        if self._order.service.secrets and not self._await_secrets():
            if self._is_told_to_stop:
                self._write("stopped", None)
                return 0
            self._lacks_secrets = True
        while True:
            child = self._start()
            if child is None:
                return 1
            started = time.monotonic()
            limit_s = self._order.timeout_s
            ends_at = None if limit_s is None else started + limit_s
            while child.poll() is None and not self._is_told:
                left_s = None if ends_at is None else ends_at - time.monotonic()
                if left_s is not None and left_s <= 0:
                    break
                self._wait(left_s)
            is_late = child.returncode is None and not self._is_told
            self._lived_s = lived_s = time.monotonic() - started
            self._clear(child)
            self._short_lives = self._short_lives + 1 if lived_s < SHORT_LIFE_S else 1
            if self._is_told_to_stop:
                self._write("stopped", child)
                return 0
            if self._is_told_to_restart:
                self._begin_again(child)
                continue
            if is_late:
                self._write(TIMED_OUT, child)
                return 1
            if child.returncode == 0 or self._order.service.restart == "never" or self._is_held():
                self._write("exited", child)
                return int(child.returncode != 0)
            if self._short_lives >= MAX_SHORT_LIVES:
                self._write("gave_up", child)
                return 1
            if not self._pause(child):
                self._write("stopped", child)
                return 0

    def _take_stop(self, *_: object) -> None:
        self._is_told_to_stop = True

    def _take_restart(self, *_: object) -> None:
        self._is_told_to_restart = True

    @property
    def _is_told(self) -> bool:
        return self._is_told_to_stop or self._is_told_to_restart

    def _begin_again(self, child: "subprocess.Popen[bytes]") -> None:
        """Somebody wants the program anew: what it did before says nothing of its next life."""
        self._is_told_to_restart = False
        self._short_lives = 0
        self._log.write(f"{STARTED_AGAIN} {child.returncode}; starting again as it was asked for\n".encode())

    def _await_secrets(self) -> bool:
        """Wait until somebody gives the secrets; False when told to stop meanwhile, or when it may wait no longer."""
        door = Door()
        limit_s = self._order.secrets_within_s
        ends_at = None if limit_s is None else time.monotonic() + limit_s
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(door, selectors.EVENT_READ)
                selector.register(self._wakeups, selectors.EVENT_READ)
                self._write(NEEDS_SECRETS, None, door=door.name)
                while not self._is_told_to_stop:
                    left_s = None if ends_at is None else ends_at - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        return False
                    for key, _ in selector.select(left_s):
                        if key.fd == self._wakeups:
                            os.read(key.fd, _PIECE_BYTES)
                            continue
                        given = door.take(self._order.service.secrets)
                        if given is not None:
                            self._secrets = given
                            return True
        finally:
            door.close()
        return False

    def _is_held(self) -> bool:
        """Is its first end to be its last? Whoever started it takes that back, once it was ready."""
        try:
            return self._starts == 1 and self._order.holds and read_order(self._path).holds
        except (OSError, ParseError):
            return False

    def _start(self) -> "Optional[subprocess.Popen[bytes]]":
        argv = list(self._order.argv)
        self._loaded = changes.newest(self._order.changes) if self._order.changes else None
        try:
            child = subprocess.Popen(
                argv,
                bufsize=0,
                cwd=self._order.directory,
                env=process.child_environment({**self._order.environment, **self._secrets}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._write("not_started", None, message=f"cannot start `{argv[0]}`: {error.strerror}")
            return None
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        self._selector.register(child.stdout, selectors.EVENT_READ)
        self._starts += 1
        self._write("running", child)
        return child

    def _wait(self, timeout_s: Optional[float]) -> bool:
        """Sleep until a signal or output comes, and write the output down; True when there was output."""
        has_output = False
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, _PIECE_BYTES)
            if key.fd == self._wakeups:
                continue
            has_output = bool(data)
            self._log.write(data)
            if not data:
                self._selector.unregister(key.fileobj)  # it closed its output and may live on
        return has_output

    def _clear(self, child: "subprocess.Popen[bytes]") -> None:
        """End what is left of the program, for that would hold the port; its last words are kept."""
        try:
            os.killpg(child.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        end = time.monotonic() + process.KILL_AFTER_S
        while child.poll() is None and time.monotonic() < end:
            self._wait(max(0.0, end - time.monotonic()))
        process.end_group(child, kill_after_s=1.0)
        assert child.stdout is not None
        for _ in range(_LAST_PIECES):
            if not self._wait(0.0):
                break
        if child.stdout in self._selector.get_map():
            self._selector.unregister(child.stdout)
        child.stdout.close()

    def _pause(self, child: "subprocess.Popen[bytes]") -> bool:
        """Wait before the next start; False when told to stop meanwhile."""
        wait_s = min(self._order.backoff_s * 2.0 ** (self._short_lives - 1), MAX_BACKOFF_S)
        self._log.write(f"{STARTED_AGAIN} {child.returncode}; starting again in {wait_s:.1f} s\n".encode())
        self._write("restarting", child)
        end = time.monotonic() + wait_s
        while time.monotonic() < end and not self._is_told:
            self._wait(max(0.0, end - time.monotonic()))
        if self._is_told_to_restart:
            self._begin_again(child)
        return not self._is_told_to_stop

    def _write(
        self, state: str, child: "Optional[subprocess.Popen[bytes]]", *, message: str = "", door: str = ""
    ) -> None:
        status = Status(
            state=state,
            note=self._order.note,
            supervisor=detach.Identity.of(os.getpid()),
            child=None if child is None else detach.Identity.of(child.pid),
            starts=self._starts,
            exit_status=None if child is None else child.returncode,
            message=message,
            loaded=self._loaded,
            door=door,
            lived_s=self._lived_s if state != "running" else None,
            lacks_secrets=self._lacks_secrets,
            takes_restart=True,
        )
        write_atomically(self._order.status, json.dumps(to_json(status)).encode(), sync=False)
