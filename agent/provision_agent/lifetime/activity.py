"""What goes on on an instance: while there is anything of this, it is not idle."""

from __future__ import annotations

import http.client
import shutil
from typing import Iterator, List

from ..contract.failures import Failure
from ..files.moved import moved_ago_s
from ..host import process
from ..jobs.job import RunFolders, any_going
from ..run.workspace import Workspace
from ..services import restarting
from .logins import logins
from .records import LifetimeFiles, LifetimeOrder

COPY_S = 15.0
"""So long after its last bytes a copy still goes on."""
BUSY_PERCENT = 5
ASK_GPU_S = 20.0


def going_on(workspace: Workspace, order: LifetimeOrder) -> str:
    """What keeps the instance from being idle, in few words; empty: nothing."""
    return next(_all(workspace, order), "")


def _all(workspace: Workspace, order: LifetimeOrder) -> Iterator[str]:
    """The cheapest to know first."""
    holder = workspace.lock_holder()
    if holder.is_alive and not holder.released:
        yield f"run {holder.run}"
    yield from _jobs(workspace)
    ago_s = moved_ago_s(workspace.root)
    if ago_s is not None and ago_s < COPY_S:
        yield "a copy of files"
    for login in logins():
        yield f"a login: {login.text}"
    yield from prompts(order, LifetimeFiles(workspace.root))
    busiest = max(gpu_percents(), default=0)
    if busiest >= BUSY_PERCENT:
        yield f"work on the GPU: {busiest} %"


def _jobs(workspace: Workspace) -> Iterator[str]:
    for run in workspace.run_ids():
        if any_going(RunFolders.of(workspace, run)):
            yield f"a job of run {run}"


def prompts(order: LifetimeOrder, files: LifetimeFiles) -> Iterator[str]:
    """The services of *order* that have something to do, and how much."""
    for service in order.services:
        try:
            queue = restarting.queued(service, files)
        except (OSError, ValueError, http.client.HTTPException):
            continue
        if queue:
            yield f"{len(queue)} prompts in the queue of {service.name}"


def gpu_percents() -> List[int]:
    """How busy each GPU is; none where nobody says."""
    if shutil.which("nvidia-smi") is None:
        return []
    lines: List[str] = []
    try:
        process.run(
            ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"],
            timeout_s=ASK_GPU_S,
            on_line=lines.append,
        )
    except Failure:
        return []
    return [int(line) for line in lines[:64] if line.strip().isdigit() and int(line) <= 100]
