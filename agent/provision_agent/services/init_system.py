"""Who started a program that no run of ours started, and how it is started again by the same hand.

Asked in words that `systemctl` and `supervisorctl` have everywhere. Nothing of their configuration is changed.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import Iterator, List, Optional

from ..contract.failures import Failure
from ..host import process, sockets
from ..host.init_system import login_environment, systemd_answers
from . import supervisord

ANSWER_S = 60.0
_UNIT = re.compile(r"/([^/]+\.service)(?:/|$)")
_PROGRAM = re.compile(r"^(?P<name>\S+)\s+RUNNING\s+pid (?P<pid>\d+)")


def restart(pid: int) -> Optional[str]:
    """Have the program that *pid* belongs to started again by whoever started it.

    Returns:
        Who did that, in words; None when nobody is known, or it does not do so.
    """
    for argv in (_by_supervisord(pid), _by_systemd(pid)):
        if argv is not None:
            done = process.run(argv, timeout_s=ANSWER_S, environment=login_environment())
            if done.status == 0:
                return f"{os.path.basename(argv[0])} restart {argv[-1]}"
    return None


def _by_supervisord(pid: int) -> Optional[List[str]]:
    control = shutil.which("supervisorctl")
    config = None if control is None else supervisord.config_of(control)
    if control is None or config is None:
        return None
    base = [control, "-c", config]
    lines: List[str] = []
    try:
        process.run([*base, "status"], timeout_s=ANSWER_S, on_line=lines.append)
    except Failure:
        return None
    for row in filter(None, map(_PROGRAM.match, lines)):
        if pid == int(row["pid"]) or int(row["pid"]) in _ancestors(pid):
            return [*base, "restart", row["name"]]
    return None


def _by_systemd(pid: int) -> Optional[List[str]]:
    if os.geteuid() != 0 or not systemd_answers():
        return None
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            units = _UNIT.findall(file.read())
    except OSError:
        return None
    if not units or units[-1].startswith("user@"):
        return None
    return ["systemctl", "--no-ask-password", "restart", units[-1]]


def _ancestors(pid: int) -> Iterator[int]:
    """Those above *pid*, without the first process, which is above everybody."""
    parent = sockets.parent_of(pid)
    while parent is not None and parent > 1:
        yield parent
        parent = sockets.parent_of(parent)
