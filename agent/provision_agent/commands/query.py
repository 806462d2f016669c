"""Questions about an instance's runs and small errands: status, stop, prune, facts, verify.

Each reads one JSON object on stdin (an empty one will do) and answers with one JSON line.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
import threading
import time
from typing import Any, Dict, List, Mapping, Optional

from ..contract.failures import Failure
from ..contract.plan import Plan
from ..host import facts
from ..host.detach import argv_of, processes
from ..run.context import Context
from ..run.journal import read_state
from ..run.keeper import holder_facts
from ..run.start import plan_of, run_facts, say, stop_keeper
from ..run.state import StateFile
from ..run.workspace import Workspace, known_workspaces
from ..steps.checks import run_check
from ..steps.python.venv import find

STOP_WITHIN_S = 40.0
VERIFY_WITHIN_S = 600.0


def status_main(argv: List[str]) -> int:
    """``status``: ``{workspace?, run?}`` -> ``{runs: [status…]}``, each with its workspace and whether it lives."""
    request = read_request()
    runs = [
        _status(workspace, run, with_plan=bool(request.get("with_plan")))
        for workspace, run in _chosen(request)
    ]
    say({"runs": [run for run in runs if run is not None]})
    return 0


def stop_main(argv: List[str]) -> int:
    """``stop``: ``{workspace?, run?}`` -> ``{stopped, verdict, run}`` of the run that is going, if it is that one."""
    request = read_request()
    for workspace, run in _chosen(request):
        state = read_state(workspace, run)
        if run == workspace.current_run() and state is not None and state.verdict is None:
            stopped = stop_keeper(workspace, within_s=STOP_WITHIN_S)
            say(
                {
                    "stopped": stopped,
                    "run": run,
                    "verdict": (read_state(workspace, run) or state).verdict,
                }
            )
            return 0
    say({"stopped": False, "run": request.get("run"), "verdict": None})
    return 0


def facts_main(argv: List[str]) -> int:
    """``facts``: ``{workspace?}`` -> the instance's ``facts``, and its clock as ``unix``."""
    found = facts.find_facts(os.path.expanduser(read_request().get("workspace") or "/"))
    say({"facts": found, "unix": time.time()})
    return 0


def prune_main(argv: List[str]) -> int:
    """``prune``: ``{workspace?, keep, older_than_s?}`` -> ``{removed: [run…], agents: [file…]}``.

    Never the current run, and no agent that a process runs by.
    """
    request = read_request()
    removed: List[str] = []
    workspaces = _workspaces(request.get("workspace"))
    for workspace in workspaces:
        removed += _prune_runs(workspace, int(request["keep"]), request.get("older_than_s"))
    agents = _prune_agents(
        [*(workspace.tool for workspace in workspaces), os.path.expanduser("~/.provision")]
    )
    say({"removed": removed, "agents": agents})
    return 0


def verify_main(argv: List[str]) -> int:
    """``verify``: ``{plan}`` -> ``{passed: […], failed: [{item, level, …}]}``: the plan's checks, now."""
    plan = Plan.from_json(read_request()["plan"])
    workspace = standing_workspace(plan)
    plan = plan.bind(workspace=workspace.root, home=os.path.expanduser("~"), run_id="verify")
    context = quiet_context(workspace.root, within_s=VERIFY_WITHIN_S)
    venv = find(plan.python, context) if plan.python is not None else None
    passed: List[str] = []
    failed: List[Dict[str, Any]] = []
    for check in plan.checks:
        try:
            run_check(check, context, venv)
            passed.append(check.name)
        except Failure as failure:
            failed.append(dict(failure.as_fields(), item=check.name, level=check.level))
    say({"passed": passed, "failed": failed})
    return 0


def quiet_context(
    root: str, *, within_s: float, secrets: Optional[Mapping[str, str]] = None, has_state: bool = True
) -> Context:
    """What a step is handed when nobody runs: it reports to nobody, and ends *within_s*."""
    workspace = Workspace(root)
    end = time.monotonic() + within_s
    return Context(
        workspace=root,
        run_id="errand",
        run_directory=workspace.tool,
        report=lambda event, **fields: None,
        state=StateFile(workspace.state if has_state else ""),
        cancelled=threading.Event(),
        remaining_s=lambda: end - time.monotonic(),
        output=lambda line: None,
        secrets=dict(secrets or {}),
    )


def standing_workspace(plan: Plan) -> Workspace:
    """Where a run of *plan* would work, without making anything: as `resolve` chooses, one that is there first."""
    first = os.path.abspath(os.path.expanduser(plan.workspace))
    others = ["/workspace", os.path.expanduser("~/workspace")] if plan.workspace_fallback else []
    candidates = [Workspace(path) for path in dict.fromkeys([first, *others])]
    in_use = (each for each in candidates if os.path.isdir(each.tool))
    usable = (each for each in candidates if os.access(nearest_folder(each.root), os.W_OK))
    return next(in_use, None) or next(usable, candidates[0])


def nearest_folder(path: str) -> str:
    """The closest folder above *path* that exists; *path* itself if it does."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    return path


def read_request() -> Dict[str, Any]:
    """The one JSON object on stdin; empty when there is none."""
    return dict(json.loads(sys.stdin.buffer.read() or b"{}"))


def _workspaces(root: Optional[str]) -> List[Workspace]:
    roots = [os.path.abspath(os.path.expanduser(root))] if root else known_workspaces()
    return [Workspace(path) for path in roots]


def _chosen(request: Mapping[str, Any]) -> "List[tuple[Workspace, str]]":
    """The asked run wherever it is; without a run id, the current run of each workspace."""
    wanted = request.get("run")
    pairs = []
    for workspace in _workspaces(request.get("workspace")):
        current = workspace.current_run()
        runs = workspace.run_ids() if wanted or request.get("all") else ([current] if current else [])
        pairs += [(workspace, run) for run in runs if not wanted or run == wanted]
    return pairs


def _status(workspace: Workspace, run: str, *, with_plan: bool) -> Optional[Dict[str, Any]]:
    holder = holder_facts(
        workspace.lock_holder()
    )  # before the events: one that ends right now has its verdict there
    state, plan = read_state(workspace, run), plan_of(workspace, run)
    if state is None or plan is None:
        return None
    status = state.to_json()
    lives = holder["run"] == run and (holder["keeper"] or holder["agent"])
    status.update(run_facts(workspace, run), is_alive=bool(lives), is_current=workspace.current_run() == run)
    if with_plan:
        status["plan"] = plan.to_json()
    return status


def _prune_runs(workspace: Workspace, keep: int, older_than_s: Optional[float]) -> List[str]:
    runs = [run for run in workspace.run_ids() if run != workspace.current_run()]
    beyond = runs[: max(len(runs) - max(keep - 1, 0), 0)]
    limit = time.time() - older_than_s if older_than_s is not None else None
    chosen = [
        run for run in beyond if limit is None or os.stat(workspace.run_directory(run)).st_mtime < limit
    ]
    for run in chosen:
        shutil.rmtree(workspace.run_directory(run), ignore_errors=True)
    return chosen


def _prune_agents(tools: List[str]) -> List[str]:
    """Remove the agents in these ``.provision`` folders that no process runs by: services outlive their run."""
    in_use = {word for pid in processes() for word in argv_of(pid)}
    removed = []
    for path in sorted(path for tool in tools for path in glob.glob(os.path.join(tool, "agent", "*.pyz"))):
        if path not in in_use:
            os.unlink(path)
            removed.append(os.path.basename(path))
    return removed
