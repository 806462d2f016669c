"""What one workspace knows of its services: orders, logs and status, beside the runs since they outlive them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from typing import Any, Dict, List

from ..host import detach
from ..run.context import Context
from . import log

TAIL_LINES = 20
ADOPTED = "adopted"
"""The state of a service that somebody else started: it has no supervisor of ours."""
_ENDED = ("exited", "gave_up", "not_started", "stopped")
_STATUS = ".status.json"


class ServiceFiles:
    """Where a service's log and status are: beside the runs, since it outlives them."""

    def __init__(self, name: str, context: Context) -> None:
        folder = os.path.join(os.path.dirname(os.path.dirname(context.run_directory)), "services")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._folder = folder
        self.name = name
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        self.log_path = os.path.join(folder, f"{safe}.log")
        self.order_path = os.path.join(folder, f"{safe}.order.json")
        self.agent_path = os.path.join(folder, f"{safe}.pyz")
        """A copy of the agent's file, for a supervisord that may need it when all runs are pruned."""
        self.program = f"provision-{safe}-{hashlib.sha256(context.workspace.encode()).hexdigest()[:8]}"
        self.status_path = os.path.join(folder, f"{safe}{_STATUS}")

    def status(self) -> Dict[str, Any]:
        """What its supervisor last wrote; empty when there never was one."""
        return _read(self.status_path)

    def lasting_argv(self) -> List[str]:
        """The command of its supervisor for a time when this run and its agent's file may be gone."""
        argv = detach.agent_argv("supervise", self.name, self.order_path)
        archive = next((word for word in argv if word.endswith(".pyz")), None)
        if archive is None:
            return argv
        shutil.copyfile(archive, self.agent_path)
        return [self.agent_path if word == archive else word for word in argv]

    def processes(self) -> List[int]:
        """Of every service of this workspace that runs, this one or another."""
        found = []
        for name in os.listdir(self._folder):
            status = _read(os.path.join(self._folder, name)) if name.endswith(_STATUS) else {}
            if is_running(status) and status.get("child"):
                found.append(int(status["child"]["pid"]))
        return found

    def tail(self) -> List[str]:
        """The last lines that the service has written since it was started; none of one that was adopted."""
        if self.status().get("state") == ADOPTED:
            return []
        return log.last_lines(self.log_path, TAIL_LINES)


def is_running(status: Dict[str, Any]) -> bool:
    """True when the service of *status* has not ended for good."""
    identity = detach.Identity.from_json(watched(status) or {})
    return identity is not None and identity.is_alive() and status["state"] not in _ENDED


def watched(status: Dict[str, Any]) -> Any:
    """The process whose end is the service's: its supervisor, or itself when somebody else started it."""
    return status.get("child" if status.get("state") == ADOPTED else "supervisor")


def _read(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        return {}
