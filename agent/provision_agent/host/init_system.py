"""Is this machine run by systemd, and does it answer? Asked of the running system, never of the image."""

from __future__ import annotations

import os
import shutil
from typing import Dict

from ..contract.failures import Failure
from . import process

ANSWER_S = 15.0
BOOTED = "/run/systemd/system"
"""Is there while systemd is the first process, and only then; see sd_booted(3)."""
_ALIVE = ("running", "degraded", "starting")
"""`systemctl is-system-running` also says these where a unit of somebody else has failed, or the boot goes on."""


def systemd_answers(*options: str) -> bool:
    """True when systemd runs this machine, and not only lies in its image; *options* such as ``--user`` for its manager."""
    if not os.path.isdir(BOOTED) or shutil.which("systemctl") is None:
        return False
    argv = ["systemctl", *options, "is-system-running"]
    try:
        tail = process.run(argv, timeout_s=ANSWER_S, environment=login_environment()).tail
    except Failure:
        return False
    return any(line in _ALIVE for line in tail[-1:])


def login_environment() -> Dict[str, str]:
    """A login without a session, one that only runs a command say, does not know where its systemd is."""
    return process.child_environment(
        {"XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"}
    )
