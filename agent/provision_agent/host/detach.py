"""Processes that outlive the one that started them, and names for them that no other process can inherit.

A pid alone may be reused; pid, start time and boot id together name one process for ever.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Iterator, List, Mapping, Optional, Sequence

import provision_agent

from ..contract import loading
from ..contract.parsing import bounded
from . import process_stat

_started: "List[subprocess.Popen[bytes]]" = []  # held, so that they are reaped and never waited for


@dataclass(frozen=True)
class Identity:
    """One process. `start_time` is in clock ticks since the machine began."""

    pid: int = bounded(low=0)
    start_time: int = bounded(low=0)
    boot_id: str = bounded(max_chars=64)

    @classmethod
    def of(cls, pid: int) -> Identity:
        """The identity of the process that has *pid* now; `start_time` 0 when it is gone already."""
        return cls(pid, _start_time(pid) or 0, boot_id())

    def is_alive(self) -> bool:
        """True while this very process runs; a zombie counts as dead."""
        return self.boot_id == boot_id() and self.start_time != 0 and _start_time(self.pid) == self.start_time

    def send(self, sign: int, *, group: bool = False) -> bool:
        """Signal it; False when it is gone.

        Args:
            sign: The signal's number.
            group: Signal its whole process group, if it leads one.

        Raises:
            PermissionError: it is somebody else's.
        """
        if not self.is_alive():
            return False
        try:
            if group and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, sign)
            else:
                os.kill(self.pid, sign)
        except ProcessLookupError:
            return False
        return True

    def end(self, *, within_s: float) -> bool:
        """TERM, then KILL when half of *within_s* has passed; True when it is gone at the end."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if not self.send(sign, group=True) or self.wait(within_s=within_s / 2):
                return True
        return not self.is_alive()

    def wait(self, *, within_s: float) -> bool:
        """Wait until it is gone, at most *within_s*; True when it is."""
        end = time.monotonic() + within_s
        while self.is_alive():
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        return True


@atexit.register
def _let_go() -> None:
    for child in _started:
        if child.poll() is None:
            child.returncode = 0  # it lives on, as it should: its object has nothing to warn of


def boot_id() -> str:
    """The kernel's name for this boot; the same in every container of one machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def processes() -> Iterator[int]:
    """Every process that can be seen from here."""
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if entry.isdigit():
            yield int(entry)


def argv_of(pid: int) -> List[str]:
    """The words that a process was started with; empty when it is gone or another user's."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


def own_place() -> str:
    """Where this agent lies: its .pyz, or the folder of its package in a checkout."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(provision_agent.__file__)))
    # the first start runs from a descriptor, whose number no child has
    return os.path.realpath(root) if root.startswith("/proc/self/fd/") else root


def own_sha256() -> Optional[str]:
    """Of the archive that this agent runs from, hex; None in a checkout."""
    known = loading.verified_sha256()
    if known is not None:
        return known
    root = os.path.dirname(os.path.dirname(os.path.abspath(provision_agent.__file__)))
    if not os.path.isfile(root):
        return None
    with open(root, "rb") as file:  # the first start: a descriptor of what the bootstrap has verified
        return hashlib.sha256(file.read()).hexdigest()


def agent_argv(
    *arguments: str,
    python: str = sys.executable,
    main: str = loading.MAIN,
    flags: Sequence[str] = ("-I", "-S"),
    place: Optional[str] = None,
) -> List[str]:
    """The command that starts this same agent again, and nothing else that may lie at its place by then.

    Args:
        arguments: Its words.
        python: The interpreter. flags: The interpreter's.
        main: What is done in place of the agent's own `main`.
        place: A copy of the agent's archive; None: where this one lies.
    """
    root, sha256 = place or own_place(), own_sha256()
    if sha256 is not None:
        return [python, *flags, "-c", loading.loader(main), root, sha256, *arguments]
    return [python, *flags, "-c", f"import sys; sys.path.append({root!r}); {main}", *arguments]


def spawn_detached(
    argv: Sequence[str],
    *,
    log_path: str,
    environment: Optional[Mapping[str, str]] = None,
    directory: Optional[str] = None,
    stdin: Optional[bytes] = None,
    keep_fds: Sequence[int] = (),
) -> Identity:
    """Start *argv* in a session of its own: no terminal, no pipe to this process, output appended to *log_path*.

    Raises:
        OSError: the program cannot be started.
    """
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            pass_fds=tuple(keep_fds),
        )
    finally:
        os.close(log)
    _started.append(child)
    identity = Identity.of(child.pid)
    if stdin is not None and child.stdin is not None:
        child.stdin.write(stdin)
        child.stdin.close()
    return identity


def _start_time(pid: int) -> Optional[int]:
    found = process_stat.read(pid)
    return None if found is None or found.has_ended else found.start_ticks
