"""What a run's environment is filled with: wheels that come on the line of its models, resolved together."""

from __future__ import annotations

import os
from typing import Optional, Set

from ...contract.plan import Plan, Repo
from ...downloads import Line
from ...run.context import Context
from .ahead import Ahead
from .locked_install import LockedInstalls
from .wheel_store import FOLDER, WheelStore


def of_run(plan: Plan, context: Context, line: Line, checked_out: Set[str]) -> Optional[LockedInstalls]:
    """The installs of a run of *plan*; None where it has no environment.

    Args:
        line: Of the run's downloads.
        checked_out: The repositories, by path, that nobody changes any more; more come while it goes on.
    """
    if plan.python is None or "python" not in plan.steps:
        return None
    kept = plan.python.wheels
    folder = os.path.join(context.workspace, os.path.expanduser(kept or FOLDER))
    store = WheelStore(context, folder, limits=plan.limits, line=line, is_kept=kept is not None)
    installs = LockedInstalls(store, context)

    def is_there(repo: Repo) -> Optional[bool]:
        if repo.path not in checked_out:
            return False
        return os.path.isfile(os.path.join(context.workspace, repo.path, repo.install or "")) or None

    installs.look_ahead = Ahead(plan, context, is_there)
    return installs
