"""The services of an instance, asked for by hand: list them, start one anew, end one.

Those of a run that goes on are its own affair as well: it sees what becomes of them. Who was started by somebody else
is restarted by its own init system and never ended.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Dict, Iterator, List, NamedTuple, Optional

from ..contract.failures import Failure
from ..contract.plan import Plan, Service
from ..contract.service_messages import (
    MAX_LAST_LINES,
    MAX_SERVICES,
    ServicesAnswer,
    ServicesRequest,
    ServiceTold,
)
from ..host import sockets
from ..host.detach import Identity
from ..run.answering import answer
from ..run.context import Context
from ..run.record import plan_of
from ..run.workspace import Workspace
from ..services import launch, log, manager, readiness, restarting
from ..services.files import ADOPTED, NEEDS_SECRETS, ServiceFiles, Status, orders_in
from ..services.wait_ready import address_of
from ..steps.python.venv import Venv, find
from .query import quiet_context, workspaces

STANDS_S = 1.0
"""A program that ends at once has ended by then."""
POLL_S = 0.2
ACT_WITHIN_S = 120.0
"""For ending a program and starting it again; how long it is waited for comes on top."""


class _Known(NamedTuple):
    """One service of a workspace."""

    service: Service
    plan: Optional[Plan]
    context: Context

    @property
    def files(self) -> ServiceFiles:
        return ServiceFiles(self.service.name, self.context)


def services_main(argv: List[str]) -> int:
    """``services``: what a `ServicesRequest` asks for."""
    return answer(ServicesRequest, _services)


def _services(request: ServicesRequest) -> ServicesAnswer:
    within_s = ACT_WITHIN_S + request.wait_s
    contexts = [
        quiet_context(each.root, within_s=within_s, secrets=request.secrets)
        for each in workspaces(request.workspace)
    ]
    known = [found for context in contexts for found in _known(context)][:MAX_SERVICES]
    if request.action == "list":
        return ServicesAnswer(tuple(_told(each) for each in known))
    chosen = [each for each in known if each.service.name == request.name]
    if not chosen:
        return ServicesAnswer(tuple(_told(each) for each in known), is_found=False, is_done=False)
    if len(chosen) > 1:
        folders = ", ".join(f"`{each.context.workspace}`" for each in chosen)
        why = f"there are several of that name, in {folders}"
        return ServicesAnswer(tuple(_told(each) for each in chosen), is_done=False, why_not=why)
    return _stop(chosen[0]) if request.action == "stop" else _restart(chosen[0], request.wait_s)


def _known(context: Context) -> Iterator[_Known]:
    """The services of a workspace: those of its current run's plan, and those that ran here before."""
    workspace = Workspace(context.workspace)
    run = workspace.current_run()
    plan = plan_of(workspace, run)
    if plan is not None:
        plan = plan.bind(workspace=workspace.root, home=os.path.expanduser("~"), run_id=run or "")
    found: Dict[str, Service] = {each.name: each for each in (plan.services if plan is not None else ())}
    for order in orders_in(workspace.root):
        service = order.service if plan is not None else replace(order.service, run=order.argv)
        found[service.name] = service  # as it really runs
    for service in found.values():
        one = _Known(service, plan, context)
        if one.files.status().state:
            yield one


def _told(one: _Known) -> ServiceTold:
    status = one.files.status()
    state, is_running = status.state, status.is_running
    if not is_running and state in ("running", "restarting", ADOPTED, NEEDS_SECRETS):
        state = "ended"
    ready = address_of(one.service, status)
    problem, answers = status.message, None
    if is_running and ready is not None and state != NEEDS_SECRETS:
        looked = readiness.look(ready, status.pid)
        problem, answers = looked.problem, not looked.problem
    child = status.child if is_running and status.child is not None and status.child.is_alive() else None
    return ServiceTold(
        name=one.service.name,
        workspace=one.context.workspace,
        state=state,
        is_running=is_running,
        answers=answers,
        problem=problem,
        url=None if ready is None else ready.url,
        log=None if state == ADOPTED or not os.path.exists(one.files.log_path) else one.files.log_path,
        pid=None if child is None else child.pid,
        up_s=None if child is None else _up_s(child),
        starts=status.starts,
        exit_status=status.exit_status,
    )


def _up_s(child: Identity) -> float:
    now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(0.0, now_s - child.start_time / os.sysconf("SC_CLK_TCK"))


def _stop(one: _Known) -> ServicesAnswer:
    status = one.files.status()
    if status.state == ADOPTED and status.child is not None and status.is_running:
        who = sockets.describe(status.child.pid)
        why = f"it was started by something else ({who}): whoever started it has to end it"
        return ServicesAnswer((_told(one),), is_done=False, why_not=why)
    manager.stop(one.service.name, one.context)
    told = _told(one)
    return ServicesAnswer((told,), is_done=not told.is_running, why_not="it did not end in time")


def _restart(one: _Known, wait_s: float) -> ServicesAnswer:
    status = one.files.status()
    try:
        if status.state == ADOPTED and status.is_running:
            if not restarting.restart_by_its_own(one.service, one.context, _venv(one), "asked for by hand"):
                why = "it was started by something else, and no systemd or supervisord knows it"
                return ServicesAnswer((_told(one),), is_done=False, why_not=why)
        elif restarting.start_anew_in_place(one.service, one.context):
            _await_start(one, status)
        else:
            missing = tuple(name for name in one.service.secrets if name not in one.context.secrets)
            if missing:
                return ServicesAnswer((_told(one),), is_done=False, wants_secrets=missing)
            manager.stop(one.service.name, one.context)
            manager.start(one.service, one.context, _venv(one))
    except Failure as failure:
        return ServicesAnswer((_told(one),), is_done=False, why_not=failure.message, last_lines=_last(one))
    told = _await_ready(one, wait_s)
    restarting.send_again(one.service, one.context)
    if not told.is_running:
        return ServicesAnswer((told,), is_done=False, why_not="it has ended again", last_lines=_last(one))
    return ServicesAnswer((told,))


def _venv(one: _Known) -> Optional[Venv]:
    plan = one.plan
    return None if plan is None or plan.python is None else find(plan.python, one.context)


def _await_start(one: _Known, before: Status) -> None:
    """Wait until its supervisor has started it once more. Raises Failure where that does not happen."""
    end = time.monotonic() + launch.STOP_S + launch.START_S
    while time.monotonic() < end:
        status = one.files.status()
        if status.starts > before.starts or not status.is_running:
            return
        time.sleep(POLL_S)
    raise Failure("crashed", f"the supervisor of `{one.service.name}` did not start it again in time")


def _await_ready(one: _Known, wait_s: float) -> ServiceTold:
    """How it is once it answers, has ended, or was waited for. One that cannot be asked is looked at for a moment."""
    begin = time.monotonic()
    while True:
        told = _told(one)
        waited_s = time.monotonic() - begin
        if told.answers or not told.is_running or waited_s > wait_s:
            return told
        if told.answers is None and waited_s > STANDS_S:
            return told
        time.sleep(POLL_S)


def _last(one: _Known) -> "tuple[str, ...]":
    return tuple(log.last_lines(one.files.log_path, MAX_LAST_LINES))
