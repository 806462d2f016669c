"""Get a folder out of the way at once, then delete it with patience.

The name is free as soon as `set_aside` returns, so that a new thing can take its place even while something holds
the old one open. What cannot be deleted is named with the processes that hold it, and never stops a run; those
processes are ended only when the user asked for it.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import Dict, List, Optional, Sequence

from ..host import process_stat
from ..host.detach import Identity
from ..run.context import Context

RETRY_WAITS_S = (2.0, 4.0, 6.0)
END_S = 10.0
"""What a holder gets to end, before and after it is killed."""
ASIDE = "~provision-"
"""Begins the name of what was set aside; no import finds it, and a later run's cleaning removes it."""


def set_aside(path: str) -> Optional[str]:
    """Rename *path* to a name beside it that nobody looks for; None when there was nothing."""
    if not os.path.lexists(path):
        return None
    folder, name = os.path.split(path.rstrip("/"))
    aside = os.path.join(folder, f"{ASIDE}{name.lstrip('~')}-{time.time_ns():x}")
    os.rename(path, aside)
    return aside


def remove(path: str, context: Context, *, waits_s: Sequence[float] = RETRY_WAITS_S) -> Optional[str]:
    """Set *path* aside and delete it; whoever is in the way is ended where the run may do that, and named.

    Returns:
        None when it is gone; else why some of it is still there, and who holds it.
    """
    try:
        aside = path if os.path.basename(path).startswith(ASIDE) else set_aside(path)
    except OSError as error:
        return f"`{path}` cannot be moved away: {error.strerror}{_held_by(path)}"
    if aside is None:
        return None
    problem: Optional[OSError] = None
    for wait_s in (*waits_s, 0.0):
        try:
            _delete(aside)
            return None
        except FileNotFoundError:
            return None
        except OSError as error:
            problem = error
            if context.kill_holders:
                _end_holders(aside, error, context)
            if context.cancelled.wait(context.bounded(wait_s)):
                break
    reason = problem.strerror if problem is not None else "the run was ended"
    return f"`{aside}` cannot be deleted: {reason}{_held_by(aside)}"


def holders(path: str) -> List[str]:
    """Processes that have something below *path* open, mapped, or as their folder: ``name (pid)``."""
    return list(_holders(path).values())


def _holders(path: str) -> Dict[int, str]:
    entries = os.listdir("/proc") if os.path.isdir("/proc") else []
    pids = [entry for entry in entries if entry.isdigit() and _holds(entry, path.rstrip("/"))]
    return {int(pid): f"{_name(pid)} ({pid})" for pid in pids}


def _end_holders(path: str, error: OSError, context: Context) -> None:
    """End everything that holds *path*, but this run itself and what it came from."""
    spared = lineage(os.getpid())
    for pid, name in _holders(path).items():
        if pid in spared:
            continue
        ended = Identity.of(pid).end(within_s=context.bounded(END_S))
        what = "ended it (`--kill-holders`)" if ended else "it could not be ended"
        context.report("warning", message=f"{name} held `{path}` ({error.strerror}): {what}")


def lineage(pid: int) -> "set[int]":
    """*pid*, the process that started it, and so on."""
    found = {0, 1}
    while pid not in found:
        found.add(pid)
        process = process_stat.read(pid)
        pid = 0 if process is None else process.parent
    return found


def _delete(path: str) -> None:
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
    else:
        shutil.rmtree(path)


def _held_by(path: str) -> str:
    names = holders(path)
    return f"; held by {', '.join(names)} (`--kill-holders` ends them)" if names else ""


def _holds(pid: str, path: str) -> bool:
    links = [f"/proc/{pid}/cwd", f"/proc/{pid}/exe", f"/proc/{pid}/root"]
    try:
        links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            if any(f" {path}/" in line for line in maps):
                return True
    except OSError:
        pass  # another user's process, or it has ended
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target == path or target.startswith(path + "/"):
            return True
    return False


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"
