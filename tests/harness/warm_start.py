"""The published command in a process of its own, without the second that its imports take.

Run as a program, this imports all of `provision`, does nothing with it, and forks: each child gets the words, the
environment, the folder and the files of one command, and goes on as `provision` does after its imports, to the end of its
interpreter. `WarmStart` is the other side; what it starts looks like a `subprocess.Popen`. Where it matters what a shell's
child has of its own (its memory, its words and environment in /proc) or of its parent (limits, a network), a command is
started cold, by `subprocess.Popen` itself.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

WITHIN_S = 60.0
MAX_MESSAGE_BYTES = 1 << 17


class Started:
    """One command. It is a zombie until somebody has waited for it, as any child is."""

    def __init__(self, starter: WarmStart, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._starter = starter

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._starter.code_of(self.pid, 0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired after *timeout* seconds."""
        if self.returncode is None:
            self.returncode = self._starter.code_of(self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("provision", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class WarmStart:
    """Starts commands, each by a fork of one process that has imported them all. Any thread may ask."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._parent = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._asking = threading.Lock()
        self._told = threading.Condition()
        self._started: list[int] = []
        self._codes: dict[int, int] = {}
        self._reaped: set[int] = set()
        self._is_gone = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        atexit.register(self.close)

    def start(
        self, words: Sequence[str], *, folder: Path, environment: Mapping[str, str], out: int, err: int
    ) -> Started:
        """`provision` with *words* in a session of its own, which reads nothing and writes to the descriptors *out* and *err*."""
        order = {"words": list(words), "folder": str(folder), "environment": dict(environment)}
        with self._asking:
            socket.send_fds(self._ours, [json.dumps(order).encode()], [out, err])
            assert self._until(lambda: bool(self._started), WITHIN_S), "no command is started"
            return Started(self, self._started.pop())

    def code_of(self, pid: int, within_s: float | None) -> int | None:
        """The exit code of *pid* as `subprocess` tells it; then the zombie is gone. None when it goes on after *within_s*."""
        if not self._until(lambda: pid in self._codes, within_s):
            return None
        self._ours.send(json.dumps({"reap": pid}).encode())
        self._until(lambda: pid in self._reaped, WITHIN_S)
        return self._codes.pop(pid)

    def close(self) -> None:
        """Start no more; what was started goes on."""
        self._parent.kill()
        self._parent.wait()
        self._listener.join()
        self._ours.close()

    def _until(self, holds: Any, within_s: float | None) -> bool:
        with self._told:
            is_so = self._told.wait_for(lambda: holds() or self._is_gone, within_s)
            if self._is_gone and not holds():
                raise AssertionError(f"what starts the commands ended itself: {self._parent.wait()}")
            return is_so

    def _next(self) -> bytes:
        try:
            return self._ours.recv(MAX_MESSAGE_BYTES)
        except ConnectionResetError:
            return b""

    def _listen(self) -> None:
        while data := self._next():
            what, pid, code = json.loads(data)
            with self._told:
                if what == "started":
                    self._started.append(pid)
                elif what == "ended":
                    self._codes[pid] = code
                else:
                    self._reaped.add(pid)
                self._told.notify_all()
        with self._told:
            self._is_gone = True
            self._told.notify_all()


# -- the process that forks


def _import_all(*rooms: ModuleType) -> None:
    for room in rooms:
        for each in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if not each.name.endswith(("__main__", ".migrations.env")):  # they do what they are for
                importlib.import_module(each.name)


def _obey(control: socket.socket) -> list[str]:
    """Fork for each order, until there are no more of them. It returns in the children: the words of the command."""
    waiting: dict[int, int] = {}  # a descriptor that is readable when the process has ended, and its pid
    ready = select.poll()
    ready.register(control, select.POLLIN)
    while True:
        for descriptor, _ in ready.poll():
            if descriptor in waiting:
                ready.unregister(descriptor)
                os.close(descriptor)
                pid = waiting.pop(descriptor)
                ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                assert ended is not None
                code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                control.send(json.dumps(["ended", pid, code]).encode())
                continue
            data, files, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 2)
            if not data:
                sys.exit(0)
            order = json.loads(data)
            if "reap" in order:
                os.waitpid(order["reap"], 0)
                control.send(json.dumps(["reaped", order["reap"], 0]).encode())
                continue
            pid = os.fork()
            if pid == 0:
                return _become(order, files)
            for file in files:
                os.close(file)
            descriptor = os.pidfd_open(pid)
            waiting[descriptor] = pid
            ready.register(descriptor, select.POLLIN)
            control.send(json.dumps(["started", pid, 0]).encode())


def _become(order: dict[str, Any], files: list[int]) -> list[str]:
    os.setsid()
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    os.closerange(3, 1024)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    return list(order["words"])


def _end(code: int) -> None:
    """What an interpreter does at its end, except to take its modules apart: that is most of a short command's cost."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # what the command made and let go of complains now
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    program = os.path.join(os.path.dirname(sys.executable), "provision")
    sys.path[0] = os.path.dirname(program)  # as the command has it; not the folder of this file

    import provision_agent
    import provision_collector
    from provision_collector.cli import main
    from provision_collector.instance import build_bundle

    _import_all(provision_agent, provision_collector)
    build_bundle()
    assert threading.active_count() == 1, "a fork has the thread that forks, and no other"
    gc.collect()
    gc.freeze()
    given = socket.socket(fileno=int(sys.argv[1]))
    sys.argv = [program, *_obey(given)]
    try:
        sys.exit(main())
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _end(end.code or 0)
        raise
