"""Questions about an instance's runs and small errands: status, stop, prune, facts, verify.

Each reads one JSON object on stdin (an empty one will do) and answers with one JSON line.
"""

from __future__ import annotations

import glob
import os
import shutil
import threading
import time
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from ..contract.failures import Failure
from ..contract.messages import (
    CheckFailed,
    CheckSkipped,
    FactsAnswer,
    FactsRequest,
    PruneAnswer,
    PruneRequest,
    RunFound,
    StatusAnswer,
    StatusRequest,
    StopAnswer,
    StopRequest,
    VerifyAnswer,
    VerifyRequest,
    joined,
)
from ..contract.parsing import ParseError
from ..contract.plan import Plan
from ..host import facts
from ..host.detach import argv_of, processes
from ..host.folders import nearest_folder
from ..lifetime.begin import told_of
from ..run import conditions
from ..run.answering import answer
from ..run.context import Context
from ..run.journal import read_state
from ..run.outages import Outages
from ..run.record import place_of, plan_of
from ..run.start import stop_keeper
from ..run.state import StateFile
from ..run.workspace import Workspace, known_workspaces
from ..services import judge
from ..steps.checks import run_check
from ..steps.python.venv import find

PATIENCE_S = 5.0
"""How long a server that cannot be reached is tried while somebody waits for the answer."""

STOP_WITHIN_S = 40.0
VERIFY_WITHIN_S = 600.0


def status_main(argv: List[str]) -> int:
    """``status``: the runs that a `StatusRequest` asks for, each with its state, its place and whether it lives."""
    return answer(StatusRequest, _status)


def stop_main(argv: List[str]) -> int:
    """``stop``: end the run that is going, if it is the one that a `StopRequest` means."""
    return answer(StopRequest, _stop)


def facts_main(argv: List[str]) -> int:
    """``facts``: the instance's facts, and its clock."""
    return answer(FactsRequest, _facts)


def prune_main(argv: List[str]) -> int:
    """``prune``: remove old runs' records. Never the current run, and no agent that a process runs by."""
    return answer(PruneRequest, _prune)


def verify_main(argv: List[str]) -> int:
    """``verify``: the checks of a plan, now."""
    return answer(VerifyRequest, _verify)


def _status(request: StatusRequest) -> StatusAnswer:
    pairs = _chosen(request.run, request.workspace, is_all=request.all)
    runs = (_run_found(workspace, run, with_plan=request.with_plan) for workspace, run in pairs)
    return StatusAnswer(tuple(run for run in runs if run is not None))


def _stop(request: StopRequest) -> StopAnswer:
    ended: Optional[StopAnswer] = None
    for workspace, run in _chosen(request.run, request.workspace):
        state = read_state(workspace, run)
        if run == workspace.current_run() and state is not None and state.verdict is None:
            stopped = stop_keeper(workspace, within_s=STOP_WITHIN_S)
            return StopAnswer(stopped, run, (read_state(workspace, run) or state).verdict)
        if state is not None and state.verdict is not None:
            ended = ended or StopAnswer(False, run, state.verdict)
    return ended or StopAnswer(False)


def _facts(request: FactsRequest) -> FactsAnswer:
    found = facts.find_facts(os.path.expanduser(request.workspace or "/"))
    return FactsAnswer(found, unix=time.time())


def _prune(request: PruneRequest) -> PruneAnswer:
    asked = workspaces(request.workspace)
    removed = [run for workspace in asked for run in _prune_runs(workspace, request)]
    tools = [*(workspace.tool for workspace in asked), os.path.expanduser("~/.provision")]
    return PruneAnswer(tuple(removed), tuple(_prune_agents(tools, only_tell=request.only_tell)))


def _verify(request: VerifyRequest) -> VerifyAnswer:
    plan = Plan.from_json(request.plan)
    workspace = standing_workspace(plan)
    plan = plan.bind(workspace=workspace.root, home=os.path.expanduser("~"), run_id="verify")
    context = quiet_context(workspace.root, within_s=VERIFY_WITHIN_S, offered=request.offered)
    chosen = conditions.selected_here(plan, context)
    plan = chosen.plan
    venv = find(plan.python, context) if plan.python is not None else None
    passed: List[str] = []
    failed: List[CheckFailed] = []
    for check in plan.checks:
        try:
            if check.service is not None:
                judge.run_check(check, plan.services, context)
            else:
                run_check(check, context, venv)
            passed.append(check.name)
        except Failure as failure:
            failed.append(
                CheckFailed(
                    item=check.name,
                    level=check.level,
                    class_=failure.class_,
                    message=failure.message,
                    case=failure.case,
                    about=failure.about,
                    retriable=failure.retriable,
                    found=failure.facts.get("found"),
                )
            )
    skipped = (
        CheckSkipped(each.key, each.level, each.reason) for each in chosen.skipped if each.step == "checks"
    )
    return VerifyAnswer(tuple(passed), tuple(failed), tuple(skipped))


def quiet_context(
    root: str,
    *,
    within_s: float,
    secrets: Optional[Mapping[str, str]] = None,
    offered: Iterable[str] = (),
    has_state: bool = True,
) -> Context:
    """What a step is handed when nobody runs: it reports to nobody.

    Args:
        root: The workspace's folder.
        within_s: When all that it does must have ended.
        secrets: Values by name.
        has_state: Whether the workspace's records may be read and written.
    """
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
        offered=frozenset(offered),
        outages=Outages(PATIENCE_S),
    )


def standing_workspace(plan: Plan) -> Workspace:
    """Where a run of *plan* would work, without making anything: as `resolve` chooses, one that is there first."""
    first = os.path.abspath(os.path.expanduser(plan.workspace))
    others = ["/workspace", os.path.expanduser("~/workspace")] if plan.workspace_fallback else []
    candidates = [Workspace(path) for path in dict.fromkeys([first, *others])]
    in_use = (each for each in candidates if os.path.isdir(each.tool))
    usable = (each for each in candidates if os.access(nearest_folder(each.root), os.W_OK))
    return next(in_use, None) or next(usable, candidates[0])


def workspaces(root: Optional[str]) -> List[Workspace]:
    """The one at *root*, or every one that is known here."""
    roots = [os.path.abspath(os.path.expanduser(root))] if root else known_workspaces()
    return [Workspace(path) for path in roots]


def _chosen(
    wanted: Optional[str], root: Optional[str], *, is_all: bool = False
) -> Iterator[Tuple[Workspace, str]]:
    """The asked run wherever it is; without a run id, the current run of each workspace."""
    for workspace in workspaces(root):
        current = workspace.current_run()
        runs = workspace.run_ids() if wanted or is_all else ([current] if current else [])
        yield from ((workspace, run) for run in runs if not wanted or run == wanted)


def _run_found(workspace: Workspace, run: str, *, with_plan: bool) -> Optional[Dict[str, object]]:
    holder = workspace.lock_holder()
    lives = holder.run == run and holder.is_alive  # asked before the events: one that ends right now is there
    state, plan = read_state(workspace, run), plan_of(workspace, run)
    if state is None or plan is None:
        return None
    try:
        place = place_of(workspace, run, plan)
    except (OSError, ParseError):
        return None  # a folder that is being made, or deleted
    found = RunFound(
        **vars(place),
        verdict=state.verdict,
        started=state.started,
        is_alive=lives,
        is_current=workspace.current_run() == run,
        labels=state.labels,
        plan=plan.to_json() if with_plan else None,
        lifetime=told_of(workspace.root),
    )
    items = state.to_json()
    told = joined(items, found)
    told["text_files"] = items["files"]  # `files` are those of the run itself
    if not with_plan:
        del told["plan"]
    return told


def _prune_runs(workspace: Workspace, request: PruneRequest) -> List[str]:
    runs = [run for run in workspace.run_ids() if run != workspace.current_run()]
    beyond = runs[: max(len(runs) - max(request.keep - 1, 0), 0)]
    limit = time.time() - request.older_than_s if request.older_than_s is not None else None
    chosen = [
        run for run in beyond if limit is None or os.stat(workspace.run_directory(run)).st_mtime < limit
    ]
    for run in () if request.only_tell else chosen:
        shutil.rmtree(workspace.run_directory(run), ignore_errors=True)
    return chosen


def _held_by_descriptor() -> Set[str]:
    """The files that processes run which were started from a descriptor, as this one was."""
    pairs = ((pid, word) for pid in processes() for word in argv_of(pid) if word.startswith("/proc/self/fd/"))
    return {os.path.realpath(word.replace("self", str(pid), 1)) for pid, word in pairs}


def _prune_agents(tools: List[str], *, only_tell: bool) -> List[str]:
    """Remove the agents in these ``.provision`` folders that no process runs by: services outlive their run."""
    in_use = {word for pid in processes() for word in argv_of(pid)} | _held_by_descriptor()
    removed = []
    for path in sorted(path for tool in tools for path in glob.glob(os.path.join(tool, "agent", "*.pyz"))):
        if path not in in_use:
            if not only_tell:
                os.unlink(path)
            removed.append(os.path.basename(path))
    return removed
