"""Begin, join, resume or refuse a run: the one decision, made under the workspace's lock.

The order comes as one JSON object on stdin, secrets in it; the answer is one JSON line on stdout. When the
answer is out, the keeper is detached and needs nobody.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from functools import partial
from typing import Callable, Iterator, List, Optional
from urllib.parse import urlsplit

from ..contract.failures import Failure, disk_failure
from ..contract.messages import StartAnswer, StartRequest
from ..contract.plan import Plan
from ..contract.plan_json import differences
from ..contract.redaction import public_url
from ..contract.version import RUN_ID_PATTERN
from ..host import fork
from ..host.detach import agent_argv, spawn_detached
from .answering import Answer, answer
from .deadline import RunClock
from .journal import Journal, read_state
from .keeper import end_jobs, jobs_going
from .record import (
    Handed,
    RunRecord,
    place_of,
    plan_of,
    read_record,
    write_plan,
    write_record,
)
from .workspace import LockRecord, Workspace, WorkspaceHeldError, WorkspaceLock, remember, resolve

TAKE_WITHIN_S = 30.0
"""How long a stopped run may need until its lock is free."""

KEEPER_BEGINS_WITHIN_S = 10.0

Keep = Callable[[Workspace, str, int, bytes], None]
"""Starts the keeper of a run: its workspace and id, the lock's descriptor, what it is handed."""


def start_main(argv: List[str]) -> int:
    """``start``: read a `StartRequest`, decide, answer with a `StartAnswer` and where the run is."""
    return answer(StartRequest, partial(decided, keeps=_keep_from_here))


def decided(order: StartRequest, *, keeps: Optional[Keep] = None) -> Answer:
    """As `decide`, for whoever answers somebody: a disk that fails is a Failure, too. Raises Failure and ParseError."""
    try:
        return decide(order, keeps=keeps or _keep_anew)
    except OSError as error:
        raise disk_failure(error, "the workspace") from None


def decide(order: StartRequest, *, keeps: Keep) -> Answer:
    """Carry out an order.

    Args:
        order: What is wanted.
        keeps: Starts the keeper.

    Returns:
        A `StartAnswer`; where it accepts the run, a `RunPlace` too.

    Raises:
        Failure: the run cannot begin. ParseError: the order holds no plan. OSError: the workspace cannot be written.
    """
    plan = Plan.from_json(order.plan)
    if not re.fullmatch(RUN_ID_PATTERN, order.run):
        shown = order.run if len(order.run) <= 100 else f"{order.run[:100]}…"
        message = f"`{shown}` is not a run id: letters, digits, `.`, `_`, `-`; 64 at most"
        return StartAnswer("usage", message=message)
    named = next((url for url in _urls(plan) if _has_login(url)), None)
    if named is not None:
        message = (
            f"`{public_url(named)}` is given with a login in it, which would be stored and shown: declare a "
            "secret for its host under `secrets`"
        )
        return StartAnswer("usage", message=message, case="login_in_url")
    workspace = resolve(plan.workspace, fallback=plan.workspace_fallback)
    remember(workspace)
    try:
        lock = _take(workspace)
    except WorkspaceHeldError as held:
        if held.is_elsewhere:
            return _refused_elsewhere(held.holder, workspace)
        joined = _join(workspace, plan, replace=order.replace)
        if joined is not None:
            return joined
        lock = _take(workspace)
    try:
        return _begin(order, plan, workspace, lock, keeps)
    finally:
        os.close(lock.descriptor)  # the keeper has its own copy by now; if there is none, the lock is free


def _urls(plan: Plan) -> Iterator[str]:
    for download in plan.downloads:
        yield from (download.url, *download.mirrors)
        if download.substitute is not None:
            yield download.substitute.url
    for repo in plan.repos:
        yield from (repo.url, *repo.mirrors)


def _has_login(url: str) -> bool:
    """Whether user info stands in a URL of the web: it would be in argv of git, and in its ``config``."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False  # whoever asks it says so
    return parts.scheme.lower() in ("http", "https") and "@" in parts.netloc


def _take(workspace: Workspace) -> WorkspaceLock:
    """The lock; a run that is just ending, or just beginning, is given a moment."""
    end = time.monotonic() + 5.0
    while True:
        try:
            return WorkspaceLock.take(workspace)
        except WorkspaceHeldError as held:
            is_settled = workspace.keeper_is_alive() and _verdict(workspace, workspace.current_run()) is None
            if held.is_elsewhere or is_settled or time.monotonic() >= end:
                raise
        time.sleep(0.1)


def _join(workspace: Workspace, plan: Plan, *, replace: bool) -> Optional[Answer]:
    """Attach to the run that is going, refuse, or (None) make room for the new one."""
    run_id = workspace.current_run()
    going = plan_of(workspace, run_id)
    if _verdict(workspace, run_id) is not None:
        raise Failure(
            "conflict",
            f"run `{run_id}` has ended, and its `on_failure` is still going",
            case="on_failure_going",
            about={"path": workspace.run_file(str(run_id), "agent.log")},
            retriable=True,
        )
    if run_id is None or going is None:
        raise Failure("conflict", "another run is just beginning on this instance", case="just_beginning")
    if going.is_same_work(plan):
        return _accepted("attached", workspace, run_id, going)
    if not replace:
        return _refused_other_plan(run_id, workspace, going, plan)
    stop_keeper(workspace, within_s=TAKE_WITHIN_S)
    return None


def _refused_other_plan(run_id: str, workspace: Workspace, going: Plan, plan: Plan) -> StartAnswer:
    return StartAnswer(
        "refused",
        run=run_id,
        message=f"run `{run_id}` of another plan is going in `{workspace.root}`",
        case="other_plan",
        about={"run": run_id},
        differences=tuple(differences(going.beside(plan).work(), plan.beside(going).work())),
    )


def _begin(order: StartRequest, plan: Plan, workspace: Workspace, lock: WorkspaceLock, keeps: Keep) -> Answer:
    run_id = order.run
    previous = workspace.current_run()
    has_died = previous is not None and _verdict(workspace, previous) is None
    if has_died and previous is not None:
        died = plan_of(workspace, previous)
        if died is not None and died.is_same_work(plan):
            _keep_wish(
                order, workspace, previous
            )  # who goes on may ask now for what they did not ask at first
            _launch(order, workspace, lock, previous, keeps)
            return _accepted("resumed", workspace, previous, died)
        if died is not None and died.jobs and not order.replace and jobs_going(workspace, previous):
            return _refused_other_plan(previous, workspace, died, plan)
        _close_dead_run(workspace, previous)
    if _verdict(workspace, run_id) is not None:
        return StartAnswer(
            "usage",
            message=f"run `{run_id}` is finished",
            case="run_ended",
        )
    _create(order, plan, workspace, run_id)
    _launch(order, workspace, lock, run_id, keeps)
    return _accepted("started", workspace, run_id, plan)


def _create(order: StartRequest, plan: Plan, workspace: Workspace, run_id: str) -> None:
    os.makedirs(workspace.run_directory(run_id), mode=0o700, exist_ok=True)
    clock = RunClock.starting_now(plan.limits.run_s)
    record = RunRecord(
        deadline_s=clock.deadline_s,
        started_unix=clock.started_unix,
        started_boot_s=clock.started_boot_s,
        boot_id=clock.boot_id,
        accepted_unix=order.started_unix,
        run=run_id,
        labels=order.labels,
        kill_holders=order.kill_holders,
        offline=bool(order.offline),
    )
    write_plan(workspace, run_id, plan)
    write_record(workspace, record)
    for path in (
        workspace.run_file(run_id, "core.log"),
        workspace.run_file(run_id, "events.jsonl"),
        workspace.errors,
    ):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    workspace.set_current(run_id)


def _keep_wish(order: StartRequest, workspace: Workspace, run_id: str) -> None:
    record = replace(read_record(workspace, run_id), kill_holders=order.kill_holders)
    write_record(workspace, record if order.offline is None else replace(record, offline=order.offline))


def _launch(order: StartRequest, workspace: Workspace, lock: WorkspaceLock, run_id: str, keeps: Keep) -> None:
    lock.renew(run=run_id)
    keeps(workspace, run_id, lock.descriptor, Handed(order.secrets, order.offered, order.signed).to_line())


def _keep_anew(workspace: Workspace, run_id: str, lock: int, handed: bytes) -> None:
    """Start a keeper of which this process is no part: nothing of its memory and its environment stays."""
    spawn_detached(
        agent_argv("keep", workspace.root, run_id, str(lock)),
        log_path=workspace.run_file(run_id, "agent.log"),
        directory=workspace.root,
        stdin=handed,
        keep_fds=(lock,),
    )


def _keep_from_here(workspace: Workspace, run_id: str, lock: int, handed: bytes) -> None:
    """Start a keeper that goes on with what this process has loaded."""
    if not fork.is_safe():
        _keep_anew(workspace, run_id, lock, handed)
        return
    log = os.open(
        workspace.run_file(run_id, "agent.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    ours, theirs = os.pipe()
    words = ("keep", workspace.root, run_id, str(lock))
    fork.agent(*words, stdin=ours, output=log, keep_fds=(lock,), directory=workspace.root)
    os.close(log)
    os.close(ours)
    with os.fdopen(theirs, "wb") as pipe:
        pipe.write(handed)


def _accepted(state: str, workspace: Workspace, run_id: str, plan: Plan) -> Answer:
    return StartAnswer(state, run=run_id), place_of(workspace, run_id, plan)


def stop_keeper(workspace: Workspace, *, within_s: float) -> bool:
    """Ask the run that is going to end, and make it when it does not.

    Args:
        within_s: For each of its two processes, before it is killed.

    Returns:
        True when nothing is left of it, and it has a verdict.
    """
    end = time.monotonic() + KEEPER_BEGINS_WITHIN_S
    while not workspace.keeper_is_alive() and _is_locked(workspace) and time.monotonic() < end:
        time.sleep(0.05)  # a keeper that was just started has not written its name yet
    holder = workspace.lock_holder()
    ended = True
    for process in (holder.keeper, holder.agent):
        if process is not None:
            ended = process.end(within_s=within_s) and ended
    run_id = workspace.current_run()
    if ended and run_id is not None and _verdict(workspace, run_id) is None:
        try:
            lock = _take(workspace)
        except WorkspaceHeldError:
            return False  # somebody works on: the verdict is theirs
        _close_dead_run(workspace, run_id)
        os.close(lock.descriptor)
    return ended


def _is_locked(workspace: Workspace) -> bool:
    try:
        os.close(WorkspaceLock.take(workspace).descriptor)
    except WorkspaceHeldError:
        return True
    return False


def _close_dead_run(workspace: Workspace, run_id: str) -> None:
    """Give a run whose processes are gone its verdict, so that whoever watches it learns the end; its jobs end with it."""
    end_jobs(workspace, run_id)
    journal = Journal(workspace, run_id, secrets={})
    journal.event("warning", message="the run's processes are gone; it is closed as cancelled")
    journal.event(
        "run_finished", verdict="cancelled", duration_s=read_record(workspace, run_id).clock.elapsed_s()
    )
    journal.close()


def _verdict(workspace: Workspace, run_id: Optional[str]) -> Optional[str]:
    state = read_state(workspace, run_id) if run_id else None
    return None if state is None else state.verdict


def _refused_elsewhere(holder: LockRecord, workspace: Workspace) -> StartAnswer:
    return StartAnswer(
        "refused",
        run=holder.run or "",
        message=f"the machine `{holder.hostname}` works in `{workspace.root}` (run `{holder.run}`)",
        case="other_machine",
    )
