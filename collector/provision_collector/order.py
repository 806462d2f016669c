"""What an instance is asked to do."""

from __future__ import annotations

import secrets as random_secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from provision_agent.plan import Plan


@dataclass(frozen=True)
class Order:
    """What the instance is asked to do. A *plan* of None joins the run that is there instead of starting one.

    Of *secrets*, only those that the plan names leave this machine.
    """

    plan: Plan | None
    run_id: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False
    kill_holders: bool = False
    workspace: str | None = None
    logs_dir: Path = Path("logs")
    profile: str = ""
    resume: bool = False
    """The run may be there already, even finished: look for it before it is started."""
    owed_secrets: frozenset[str] = frozenset()
    """Names that the run was begun with and this process does not hold: asked for before an agent is started."""


def new_run_id() -> str:
    """``YYYYMMDDTHHMMSS-xxxxxx``, UTC."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + random_secrets.token_hex(3)


def agent_folders(plan: Plan | None, workspace: str | None) -> list[str]:
    """Where the agent may be stored: in the workspace, as the agent itself will resolve it; else in the home folder."""
    if plan is None:
        return [f"{workspace}/.provision/agent"] if workspace else ["~/.provision/agent"]
    roots = [plan.workspace, *(("/workspace", "~/workspace") if plan.workspace_fallback else ())]
    return [f"{root}/.provision/agent" for root in roots]
