"""Begin, join, resume or refuse a run: the one decision, made under the workspace's lock.

The order comes as one JSON object on stdin, secrets in it; the answer is one JSON line on stdout. When the
answer is out, the keeper is detached and needs nobody.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any, Dict, List, Mapping, Optional

from ..contract import version
from ..contract.failures import Failure, disk_failure
from ..contract.frames import ANSWER_MAGIC
from ..contract.plan import Plan, PlanFormatError, differences
from ..host.detach import Identity, agent_argv, spawn_detached
from .deadline import RunClock
from .journal import Journal, read_state
from .state import write_atomically
from .workspace import Workspace, WorkspaceHeldError, WorkspaceLock, remember, resolve

TAKE_WITHIN_S = 30.0
"""How long a stopped run may need until its lock is free."""

KEEPER_BEGINS_WITHIN_S = 10.0


def start_main(argv: List[str]) -> int:
    """``start``: read the order, decide, answer."""
    order = json.loads(sys.stdin.buffer.read())
    try:
        answer = decide(order)
    except Failure as failure:
        answer = dict(failure.as_fields(), state="failed")
    except OSError as error:
        answer = dict(disk_failure(error, "the workspace").as_fields(), state="failed")
    except PlanFormatError as error:
        answer = {
            "state": "failed",
            "class": "bug",
            "message": str(error),
            "hint": "use one version of provision",
        }
    say(answer)
    return 0


def say(answer: Mapping[str, Any]) -> None:
    """Write one answer line, marked so that what a login shell printed before it can be told apart."""
    sys.stdout.flush()
    line = json.dumps(dict(answer, format=version.FORMAT), separators=(",", ":")).encode()
    os.write(1, ANSWER_MAGIC + line + b"\n")


def decide(order: Mapping[str, Any]) -> Dict[str, Any]:
    """Carry out an order.

    Args:
        order: ``{run, plan, secrets, labels, started_unix, replace, kill_holders, is_run_id_given}``.

    Returns:
        ``{state: started | resumed | attached | refused | usage, run, …}``, with the paths to follow.
    """
    plan = Plan.from_json(order["plan"])
    run_id = str(order["run"])
    if not re.fullmatch(version.RUN_ID_PATTERN, run_id):
        return _answer(
            "usage", message=f"`{run_id}` is not a run id: letters, digits, `.`, `_`, `-`; 64 at most"
        )
    workspace = resolve(plan.workspace, fallback=plan.workspace_fallback)
    remember(workspace)
    try:
        lock = _take(workspace)
    except WorkspaceHeldError as held:
        if held.is_elsewhere:
            return _refused_elsewhere(held.holder, workspace)
        joined = _join(workspace, plan, replace=bool(order.get("replace")))
        if joined is not None:
            return joined
        lock = _take(workspace)
    try:
        return _begin(order, plan, workspace, lock)
    finally:
        os.close(lock.descriptor)  # the keeper has its own copy by now; if there is none, the lock is free


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


def _join(workspace: Workspace, plan: Plan, *, replace: bool) -> Optional[Dict[str, Any]]:
    """Attach to the run that is going, refuse, or (None) make room for the new one."""
    run_id = workspace.current_run()
    going = plan_of(workspace, run_id)
    if _verdict(workspace, run_id) is not None:
        raise Failure(
            "conflict",
            f"run `{run_id}` has ended, and its `on_failure` is still going",
            hint=f"try again when it has; `{workspace.run_file(str(run_id), 'agent.log')}` on the instance says how far it is",
            retriable=True,
        )
    if run_id is None or going is None:
        raise Failure(
            "conflict", "another run is just beginning on this instance", hint="try again in a few seconds"
        )
    if going.hash == plan.hash:
        return _answer("attached", workspace=workspace, run_id=run_id, plan=going)
    if not replace:
        return _answer(
            "refused",
            run=run_id,
            message=f"run `{run_id}` of another plan is going in `{workspace.root}`",
            hint=f"`provision attach {run_id}` follows it, `provision stop {run_id}` ends it, `--replace` does both in one",
            differences=differences(going.to_json(), plan.to_json()),
        )
    stop_keeper(workspace, within_s=TAKE_WITHIN_S)
    return None


def _begin(order: Mapping[str, Any], plan: Plan, workspace: Workspace, lock: WorkspaceLock) -> Dict[str, Any]:
    run_id = str(order["run"])
    previous = workspace.current_run()
    has_died = previous is not None and _verdict(workspace, previous) is None
    if has_died and previous is not None:
        died = plan_of(workspace, previous)
        if died is not None and died.hash == plan.hash:
            _keep_wish(order, workspace, previous)
            return _launch(order, died, workspace, lock, previous, state="resumed")
        _close_dead_run(workspace, previous)
    if _verdict(workspace, run_id) is not None:
        return _answer(
            "usage",
            message=f"run `{run_id}` is finished",
            hint="choose another `--run-id`, or leave it out for a new one",
        )
    _create(order, plan, workspace, run_id)
    return _launch(order, plan, workspace, lock, run_id, state="started")


def _create(order: Mapping[str, Any], plan: Plan, workspace: Workspace, run_id: str) -> None:
    os.makedirs(workspace.run_directory(run_id), mode=0o700, exist_ok=True)
    clock = dict(RunClock.starting_now(plan.limits.run_s).as_json(), accepted_unix=order.get("started_unix"))
    record = dict(clock, format=version.FORMAT, run=run_id, labels=order.get("labels") or {})
    record["kill_holders"] = bool(order.get("kill_holders"))
    write_atomically(workspace.run_file(run_id, "plan.json"), json.dumps(plan.to_json(), indent=1).encode())
    write_atomically(workspace.run_file(run_id, "run.json"), json.dumps(record).encode())
    for path in (
        workspace.run_file(run_id, "core.log"),
        workspace.run_file(run_id, "events.jsonl"),
        workspace.errors,
    ):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    workspace.set_current(run_id)


def _keep_wish(order: Mapping[str, Any], workspace: Workspace, run_id: str) -> None:
    """Who goes on with a run may ask now for what they did not ask at first."""
    record = dict(read_run_record(workspace, run_id), kill_holders=bool(order.get("kill_holders")))
    write_atomically(workspace.run_file(run_id, "run.json"), json.dumps(record).encode())


def _launch(
    order: Mapping[str, Any],
    plan: Plan,
    workspace: Workspace,
    lock: WorkspaceLock,
    run_id: str,
    *,
    state: str,
) -> Dict[str, Any]:
    lock.renew(run=run_id, keeper=None, agent=None)
    secrets = json.dumps({"secrets": order.get("secrets") or {}}).encode()
    spawn_detached(
        agent_argv("keep", workspace.root, run_id, str(lock.descriptor)),
        log_path=workspace.run_file(run_id, "agent.log"),
        directory=workspace.root,
        stdin=secrets,
        keep_fds=(lock.descriptor,),
    )
    return _answer(state, workspace=workspace, run_id=run_id, plan=plan)


def stop_keeper(workspace: Workspace, *, within_s: float) -> bool:
    """Ask the run that is going to end, and make it when it does not; True when nothing is left of it."""
    end = time.monotonic() + KEEPER_BEGINS_WITHIN_S
    while not workspace.keeper_is_alive() and _is_locked(workspace) and time.monotonic() < end:
        time.sleep(0.05)  # a keeper that was just started has not written its name yet
    holder = workspace.lock_holder()
    keeper = Identity.from_json(holder.get("keeper") or {})
    agent = Identity.from_json(holder.get("agent") or {})
    ended = True
    for process in (keeper, agent):
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
    """Give a run whose processes are gone its verdict, so that whoever watches it learns the end."""
    journal = Journal(workspace, run_id, secrets={})
    journal.event("warning", message="the run's processes are gone; it is closed as cancelled")
    journal.event("run_finished", verdict="cancelled", duration_s=_clock(workspace, run_id).elapsed_s())
    journal.close()


def _clock(workspace: Workspace, run_id: str) -> RunClock:
    return RunClock.from_json(read_run_record(workspace, run_id))


def read_run_record(workspace: Workspace, run_id: str) -> Dict[str, Any]:
    """`run.json`: the clock and the labels of a run. Raises OSError or ValueError when it is not there or broken."""
    with open(workspace.run_file(run_id, "run.json"), encoding="utf-8") as file:
        return dict(json.load(file))


def plan_of(workspace: Workspace, run_id: Optional[str]) -> Optional[Plan]:
    """The plan of a run; None when it left none that this version reads."""
    if run_id is None:
        return None
    try:
        with open(workspace.run_file(run_id, "plan.json"), encoding="utf-8") as file:
            return Plan.from_json(json.load(file))
    except (OSError, ValueError):
        return None


def _verdict(workspace: Workspace, run_id: Optional[str]) -> Optional[str]:
    state = read_state(workspace, run_id) if run_id else None
    return None if state is None else state.verdict


def _answer(
    state: str,
    *,
    workspace: Optional[Workspace] = None,
    run_id: str = "",
    plan: Optional[Plan] = None,
    **facts: Any,
) -> Dict[str, Any]:
    answer: Dict[str, Any] = dict(facts, state=state)
    if workspace is not None and plan is not None:
        answer.update(run_facts(workspace, run_id), run=run_id, plan_hash=plan.hash)
    return answer


def run_facts(workspace: Workspace, run_id: str) -> Dict[str, Any]:
    """What a watcher needs to know of a run: where its files lie, when it began, how long it may take."""
    record = read_run_record(workspace, run_id)
    return {
        "workspace": workspace.root,
        "started_unix": int(record.get("accepted_unix") or record["started_unix"]),
        "remaining_s": RunClock.from_json(record).remaining_s(),
        "files": {
            "core": workspace.run_file(run_id, "core.log"),
            "errors": workspace.errors,
            "events": workspace.run_file(run_id, "events.jsonl"),
        },
    }


def _refused_elsewhere(holder: Mapping[str, Any], workspace: Workspace) -> Dict[str, Any]:
    return _answer(
        "refused",
        run=str(holder.get("run", "")),
        message=f"the machine `{holder.get('hostname')}` works in `{workspace.root}` (run `{holder.get('run')}`)",
        hint="stop that run, or choose another folder with `--workspace`: two machines may not share one",
    )
