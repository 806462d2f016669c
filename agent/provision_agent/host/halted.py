"""Programs that stand still, told to by SIGSTOP, and what they have said before."""

from __future__ import annotations

import os
from typing import Iterator

from . import detach, process_stat

_OUTPUTS = (1, 2)
_STOPPED = ("T", "t", "Z", "X")


def is_halted(group: int) -> bool:
    """True when every thread of every process of *group* stands still or is gone."""
    return all(state in _STOPPED for pid in _members(group) for state in _states(pid))


def say_for(pid: int, data: bytes) -> bool:
    """Write *data* after what *pid* has said, into the pipe that takes its output; False where that is no pipe or full."""
    for number in _OUTPUTS:
        path = f"/proc/{pid}/fd/{number}"
        try:
            if not os.readlink(path).startswith("pipe:"):
                continue
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            return os.write(pipe, data) == len(data)
        except OSError:
            continue
        finally:
            os.close(pipe)
    return False


def _members(group: int) -> Iterator[int]:
    for pid in detach.processes():
        try:
            if os.getpgid(pid) == group:
                yield pid
        except OSError:
            continue  # it is gone


def _states(pid: int) -> Iterator[str]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        found = process_stat.read(pid, thread=int(thread))
        if found is not None:
            yield found.state
