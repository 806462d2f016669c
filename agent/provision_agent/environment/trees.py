"""Get a folder out of the way at once, then delete it with patience.

The name is free as soon as `set_aside` returns, so that a new thing can take its place even while something holds
the old one open. What cannot be deleted is named with the processes that hold it, and never stops a run.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import List, Optional, Sequence

from ..context import Context

RETRY_WAITS_S = (2.0, 4.0, 6.0)
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
    """Set *path* aside and delete it.

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
            if os.path.islink(aside) or not os.path.isdir(aside):
                os.unlink(aside)
            else:
                shutil.rmtree(aside)
            return None
        except FileNotFoundError:
            return None
        except OSError as error:
            problem = error
            if context.cancelled.wait(min(wait_s, max(0.0, context.remaining_s()))):
                break
    reason = problem.strerror if problem is not None else "the run was ended"
    return f"`{aside}` cannot be deleted: {reason}{_held_by(aside)}"


def holders(path: str) -> List[str]:
    """Processes that have something below *path* open, mapped, or as their folder: ``name (pid)``."""
    entries = os.listdir("/proc") if os.path.isdir("/proc") else []
    pids = [entry for entry in entries if entry.isdigit() and _holds(entry, path.rstrip("/"))]
    return [f"{_name(pid)} ({pid})" for pid in pids]


def _held_by(path: str) -> str:
    names = holders(path)
    return f"; held by {', '.join(names)}" if names else ""


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
