"""When bytes of a copy moved last: a file beside the runs, so that whoever ends an idle instance knows of them."""

from __future__ import annotations

import os
import time
from typing import Optional

from ..run.state import write_atomically
from ..run.workspace import Workspace, known_workspaces

SAY_EVERY_S = 1.0


class Moved:
    """Says it for the copies of one session, at most once in `SAY_EVERY_S`. Without a *workspace*, in all that are known."""

    def __init__(self, workspace: str) -> None:
        self._paths = [path_of(root) for root in ([workspace] if workspace else known_workspaces())]
        self._said_s = float("-inf")

    def __call__(self) -> None:
        """Bytes moved just now. Thread-safe: at worst it is said twice."""
        now_s = _now_s()
        if now_s - self._said_s < SAY_EVERY_S:
            return
        self._said_s = now_s
        for path in self._paths:
            try:
                write_atomically(path, f"{now_s:.3f}".encode(), sync=False)
            except OSError:
                continue  # a copy goes on without


def path_of(workspace: str) -> str:
    """The file that says it."""
    return os.path.join(Workspace(workspace).tool, "moved")


def moved_ago_s(workspace: str) -> Optional[float]:
    """Seconds since bytes moved last; None when none ever did since the machine was started."""
    try:
        with open(path_of(workspace), encoding="ascii") as file:
            ago_s = _now_s() - float(file.read(64))
    except (OSError, ValueError):
        return None
    return ago_s if ago_s >= 0 else None


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
