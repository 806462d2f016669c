"""Have the end of an instance measured: a process of its own, below the supervisor that services have.

It starts again by itself where it was killed, and after a reboot where the instance's own init starts the supervisor.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Dict, List, Mapping, NamedTuple, Optional

from ..contract.failures import Failure, disk_failure
from ..contract.lifetime_told import LifetimeTold
from ..contract.messages import MAX_SECRETS, read_message
from ..contract.parsing import bounded
from ..contract.plan import Plan, Service
from ..host import detach
from ..host.folders import make_private
from ..run.context import Report
from ..services import launch
from ..services.files import NEEDS_SECRETS, Note, Order
from . import deciding
from .records import NAME, LifetimeFiles, LifetimeOrder

SECRETS_WITHIN_S = 60.0
"""So long after a reboot somebody may still bring the secrets of its hooks; then it measures without them."""


class Starter(NamedTuple):
    """Whoever starts it, and who is told of trouble."""

    workspace: str
    report: Report


def order_of(plan: Plan, run_id: str) -> Optional[LifetimeOrder]:
    """What the run *run_id* of *plan*, its variables filled in, wants; None when nothing has to stay for that.

    `on_failure` of a run without results is the keeper's own, as soon as there is a verdict.
    """
    waits = plan.on_failure is not None and bool(plan.outputs or plan.jobs)
    if plan.lifetime is None and not waits:
        return None
    return LifetimeOrder(
        run=run_id,
        lifetime=plan.lifetime,
        on_failure=plan.on_failure,
        outputs=plan.outputs,
        outputs_keep_s=plan.outputs_keep_s,
        services=tuple(service for service in plan.services if service.ready is not None),
    )


def begin(plan: Plan, run_id: str, secrets: Mapping[str, str], starter: Starter) -> None:
    """Have what *plan* wants measured from now on; of a run that goes on it is measured already.

    Args:
        plan: With its variables filled in.
        secrets: Values by name; those of the hooks are handed over in memory.

    Raises:
        Failure: it cannot be started.
    """
    files = LifetimeFiles(starter.workspace)
    order = order_of(plan, run_id)
    if order is None:
        _say_what_stays(files, starter)
        return
    try:
        make_private(files.folder)
        status = files.supervised.status()
        if files.order() == order and status.is_running and not status.lacks_secrets:
            if status.state == NEEDS_SECRETS:
                launch.give(files.supervised, status, _given(order, secrets))
            return
        launch.end_supervised(files.supervised)
        files.begin(order)
    except OSError as error:
        raise disk_failure(error, files.folder) from None
    start(files, order, secrets, starter)


def start(files: LifetimeFiles, order: LifetimeOrder, secrets: Mapping[str, str], starter: Starter) -> None:
    """Start the supervisor, and by it what measures. Raises Failure."""
    given = _given(order, secrets)
    words = (NAME, files.workspace)
    files.supervised.lasting_argv()  # keeps a copy of the agent for a time when this run is pruned
    has_copy = os.path.isfile(detach.own_place())
    argv = detach.agent_argv(*words, place=files.supervised.agent_path if has_copy else None)
    supervised = Order(
        service=Service(NAME, words, restart="on_failure", secrets=tuple(sorted(given))),
        argv=tuple(argv),
        directory="/",
        environment={},
        log=files.supervised.log_path,
        status=files.supervised.status_path,
        note=Note(order.run),
        secrets_within_s=SECRETS_WITHIN_S,
    )
    launch.start(files.supervised, supervised, starter, given)


def is_measured(workspace: str, run_id: str) -> bool:
    """Whether the end that the run *run_id* wants is in the hands of a process that lives."""
    files = LifetimeFiles(workspace)
    order = files.order()
    return order is not None and order.run == run_id and files.supervised.status().is_running


def told_of(workspace: str) -> Optional[LifetimeTold]:
    """When the instance is ended, as far as is known; None where nobody measures that."""
    files = LifetimeFiles(workspace)
    order = files.order()
    if order is None:
        return None
    state = deciding.extended(files.state(), files.extensions())
    if order.lifetime is None and not (state.reason or state.done):
        return None  # it waits for a run to fail
    return deciding.told(order, state, is_running=files.supervised.status().is_running)


def _given(order: LifetimeOrder, secrets: Mapping[str, str]) -> Dict[str, str]:
    names = {name for hook in order.hooks for name in hook.secrets}
    return {name: secrets[name] for name in names if name in secrets}


def _say_what_stays(files: LifetimeFiles, starter: Starter) -> None:
    told = told_of(starter.workspace)
    if told is not None and told.is_running and told.ends_in_s is not None:
        message = (
            f"run `{told.run}` before this one has a `lifetime`, which still holds: the instance may be ended in "
            f"{max(0.0, told.ends_in_s) / 60:.0f} min; `provision keep {told.run} --for 2h` puts that off"
        )
        starter.report("warning", message=message)


# -- when the supervisor itself was killed


@dataclass(frozen=True)
class HandedSecrets:
    """What is handed over on stdin."""

    secrets: Dict[str, str] = bounded(factory=dict, max_entries=MAX_SECRETS)


def lifetime_again_main(argv: List[str]) -> int:
    """``lifetime_again <workspace>``: start the supervisor again that was killed; secrets on stdin."""
    files = LifetimeFiles(argv[0])
    handed = read_message(HandedSecrets, sys.stdin.buffer.read())
    order = files.order()
    if order is None:
        return 1
    launch.end_supervised(files.supervised)

    def report(event: str, **fields: object) -> None:
        print(f"lifetime: {fields.get('message', event)}", flush=True)

    try:
        start(files, order, handed.secrets, Starter(argv[0], report))
    except Failure as failure:
        print(f"lifetime: {failure.message}", flush=True)
        return 1
    return 0


def start_again(files: LifetimeFiles, secrets: Mapping[str, str]) -> None:
    """Have another process start all of it again, this one included."""
    detach.spawn_detached(
        detach.agent_argv("lifetime_again", files.workspace),
        log_path=files.supervised.log_path,
        directory="/",
        stdin=json.dumps({"secrets": dict(secrets)}).encode() + b"\n",
    )
