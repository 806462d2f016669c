"""Who is logged in on this instance: by its record of logins, and by what runs below its SSH server.

A session in which only this tool's own agent runs is no login: it is a watcher of a run, who may have been forgotten.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ..host import process_stat
from ..host.detach import argv_of, processes
from ..host.process_stat import ProcessStat

_RECORD = struct.Struct("hi32s4s32s256s")
_RECORD_BYTES = 384
_USER_PROCESS = 7
_RECORDS = ("/run/utmp", "/var/run/utmp")
_SERVERS = ("sshd", "sshd-session", "sshd-auth", "dropbear")
_OURS = re.compile(r"provision[-_]agent|provision-answer|provision-no-python|/\.provision/|^/proc/self/fd/")
_TERMINAL_MAJORS = range(136, 144)
MAX_CHARS = 60


class Login(NamedTuple):
    """One login."""

    text: str
    """Who, or what he runs, for people."""
    terminal: Optional[str]
    """Its device; None where it has none."""
    server: Optional[int] = None
    """The process of the SSH server that holds the session, where it is known by that."""


def logins() -> List[Login]:
    """Everybody who is logged in now."""
    found = list(_recorded())
    known = {login.terminal for login in found}
    return found + [login for login in _sessions() if login.terminal is None or login.terminal not in known]


def is_watched() -> bool:
    """Whether this tool's own agent sends logs to somebody now."""
    return any(argv_of(pid)[-1:] == ["follow"] for pid in processes())


def _recorded() -> Iterator[Login]:
    for path in _RECORDS:
        try:
            with open(path, "rb") as file:
                data = file.read(1 << 20)
        except OSError:
            continue
        for at in range(0, len(data) - _RECORD_BYTES + 1, _RECORD_BYTES):
            kind, pid, line, _, user, _ = _RECORD.unpack_from(data, at)
            if kind == _USER_PROCESS and os.path.isdir(f"/proc/{pid}"):
                terminal = line.split(b"\0")[0].decode("ascii", "replace")
                name = user.split(b"\0")[0].decode("utf-8", "replace")
                yield Login(f"{name} on {terminal}", f"/dev/{terminal}")
        return


def _sessions() -> Iterator[Login]:
    """What runs below an SSH server and is not this tool's own agent, one for each session."""
    seen = ((pid, process_stat.read(pid)) for pid in processes())
    table = {pid: process for pid, process in seen if process is not None and not process.has_ended}
    told: Set[int] = set()
    for pid, process in table.items():
        if process.name in _SERVERS:
            continue
        server, is_ours = _server_of(pid, table)
        if server is not None and server not in told and not is_ours:
            told.add(server)
            words = " ".join(argv_of(pid))
            yield Login((words or process.name)[:MAX_CHARS], _terminal_of(process), server)


def _server_of(pid: int, table: Dict[int, ProcessStat]) -> Tuple[Optional[int], bool]:
    """The server's process of the session that *pid* is in, and whether something on the way there is our own agent."""
    way: List[int] = []
    while pid in table and pid not in way:
        if table[pid].name in _SERVERS:
            return pid, any(_OURS.search(word) for each in way for word in argv_of(each))
        way.append(pid)
        pid = table[pid].parent
    return None, False


def _terminal_of(process: ProcessStat) -> Optional[str]:
    """Its pseudo-terminal; None where it has none."""
    major, minor = os.major(process.terminal), os.minor(process.terminal)
    if process.terminal <= 0 or major not in _TERMINAL_MAJORS:
        return None
    return f"/dev/pts/{(major - _TERMINAL_MAJORS[0]) * 256 + minor}"


def say(message: str, terminals: List[str]) -> None:
    """Write *message* to each of *terminals*, as far as they take it."""
    for path in terminals:
        if not path.startswith("/dev/"):
            continue
        try:
            terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            os.write(terminal, f"\r\n{message}\r\n".encode())
        except OSError:
            continue
        finally:
            os.close(terminal)
