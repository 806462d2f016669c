"""The same agent once more, as a child that goes on with what this process has loaded: nothing is read or compiled again.

Only for the process that `start` is, and for the keeper that comes of it: they have one thread, and no file open that the
child would close twice.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from typing import Optional, Sequence

from . import early_code


class Child:
    """A child of this process, to be waited for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: Optional[int] = None

    def wait(self, timeout: Optional[float] = None) -> int:
        """Its exit status, as of `subprocess`: negative for a signal.

        Args:
            timeout: In seconds; None: as long as it takes.

        Raises:
            subprocess.TimeoutExpired: it still goes on.
        """
        end = None if timeout is None else time.monotonic() + timeout
        delay_s = 0.0005
        while self._status is None:
            pid, status = os.waitpid(self.pid, 0 if end is None else os.WNOHANG)
            if pid:
                ended = os.WIFSIGNALED(status)
                self._status = -os.WTERMSIG(status) if ended else os.WEXITSTATUS(status)
            elif end is not None:
                left_s = end - time.monotonic()
                if left_s <= 0:
                    raise subprocess.TimeoutExpired("agent", timeout or 0.0)
                delay_s = min(delay_s * 2, left_s, 0.05)
                time.sleep(delay_s)
        return self._status

    def terminate(self) -> None:
        """Ask it to end."""
        if self._status is None:
            os.kill(self.pid, signal.SIGTERM)


def is_safe() -> bool:
    """Whether this process may have children that go on with its memory: no other thread holds anything of it."""
    return threading.active_count() == 1


def agent(
    *arguments: str, stdin: int, output: int, keep_fds: Sequence[int] = (), directory: Optional[str] = None
) -> Child:
    """Start this agent with *arguments* in a session of its own.

    Args:
        arguments: Its words.
        stdin: What it reads. output: Where both of its streams go.
        keep_fds: Descriptors that it has beside these; no other one.
        directory: Where it runs; None: here.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = None
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
    if pid:
        return Child(pid)
    status = 1
    try:
        _begin(stdin, output, frozenset((*keep_fds, *early_code.descriptors())), directory)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if arguments[0] == "run":
            early_code.use()
        main = importlib.import_module("provision_agent.__main__").main
        status = int(main(list(arguments)))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        _end(status)
    raise AssertionError  # pragma: no cover


def _begin(stdin: int, output: int, keep_fds: "frozenset[int]", directory: Optional[str]) -> None:
    """Let go of all that is the parent's."""
    os.setsid()
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if callable(signal.getsignal(sign)):
            signal.signal(sign, signal.default_int_handler if sign == signal.SIGINT else signal.SIG_DFL)
    os.dup2(stdin, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for each in _open_fds():
        if each > 2 and each not in keep_fds:
            try:
                os.close(each)
            except OSError:
                pass  # that which listed them
    if directory is not None:
        os.chdir(directory)
    # what the parent read ahead is not this one's
    sys.stdin = os.fdopen(0, "r", closefd=False)


def _open_fds() -> "list[int]":
    try:
        return [int(each) for each in os.listdir("/proc/self/fd")]
    except OSError:
        return list(range(3, 1024))


def _end(status: int) -> None:
    """Leave without what the parent has to do at its own end."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
