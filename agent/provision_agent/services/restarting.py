"""Starts a service anew without losing what people have asked of it.

A ComfyUI keeps its prompts in memory only. So it is ended when it has nothing to do, and in such a way that none can
slip in between: it is stopped in its tracks first, and goes on if it turns out to have been asked just then. Where its
queue never gets empty, what stands in it is taken down, and queued again after the start under the same ids.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from typing import List, NamedTuple, Optional, Tuple

from ..contract.failures import Failure
from ..contract.plan import Service
from ..host import halted
from ..host.detach import Identity
from ..run.context import Context
from ..run.state import write_atomically
from ..steps import commands, nodes
from ..steps.python.venv import Venv
from . import adoption, changes, comfyui, init_system, log, manager
from .files import ADOPTED, InWorkspace, ServiceFiles
from .wait_ready import address_of

QUIET_S = 1.0
"""For so long nobody may have asked anything, before it counts as idle."""
ANSWER_S = 0.2
"""For one that is ended although it is busy: what it was asked before that stands in its queue."""
SETTLE_S = 5.0
"""At most so long until it stands still, and its supervisor has written down what it said before."""
RETURN_S = 60.0
"""For an init system to bring a program back."""
_FORCED_TRIES = 20
_NAMED = 3
_KINDS = {"package": "package", "node": "repository", "file": "file"}


class Load(NamedTuple):
    """What a service has to do: `prompts` is None when it does not say."""

    prompts: Optional[int]
    asked: log.Said
    """How often it was asked so far, as its log says."""
    running: Tuple[object, ...] = ()

    @property
    def is_idle(self) -> bool:
        """It says that it has nothing to do."""
        return self.prompts == 0


def unloaded(service: Service, context: Context, made: changes.Changes) -> List[changes.Change]:
    """What has changed since the start of *service* and only comes with another start."""
    status = ServiceFiles(service.name, context).status()
    return [change for change in made.since(status.loaded) if _matters(change, service, context)]


def is_news(service: Service, context: Context, made: changes.Changes) -> bool:
    """False when it was warned already, since the start of *service*, of all that it has not loaded."""
    loaded = ServiceFiles(service.name, context).status().loaded
    return made.is_news(service.name, loaded or 0, [each.item for each in unloaded(service, context, made)])


def reason_of(found: List[changes.Change]) -> str:
    """The changes in words."""
    named = list(dict.fromkeys(f"{_KINDS.get(each.kind, each.kind)} {each.item}" for each in found))
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"changed since its start: {', '.join(named[:_NAMED])}{more}"


def is_comfyui(service: Service, context: Context) -> bool:
    """True when it is a ComfyUI, so that it can be known what it has to do."""
    return comfyui.is_one(address_of(service, ServiceFiles(service.name, context).status()))


def queued(service: Service, context: InWorkspace) -> List[object]:
    """The prompts that it has and has not finished."""
    queue = _queue(service, ServiceFiles(service.name, context))
    return [] if queue is None else queue.prompts


def load_of(service: Service, context: Context, since: Optional[log.Said] = None) -> Load:
    """What *service* has to do now. *since*: `Load.asked` of a look before, after which its log is read on."""
    files = ServiceFiles(service.name, context)
    asked = log.said(files.log_path, comfyui.PROMPT_SAID, since)
    queue = _queue(service, files)
    if queue is None:
        return Load(None, asked)
    return Load(len(queue.prompts), asked, queue.running)


def take_down(service: Service, context: Context, *, asked: log.Said) -> bool:
    """End *service*, one of ours, if it has nothing to do; False when it has, and goes on.

    Args:
        asked: As `load_of` said `QUIET_S` ago and since: a prompt that it was sent before that has its place by now.
    """
    files = ServiceFiles(service.name, context)
    queue = _queue(service, files)
    return queue is not None and not queue and _end(service, context, queue, asked)


def take_down_busy(service: Service, context: Context) -> List[object]:
    """End *service*, one of ours, whatever it does; the prompts that it had and has not finished."""
    return _end_busy(service, context).prompts


def _end_busy(service: Service, context: Context, *, again: bool = False) -> comfyui.Queue:
    files = ServiceFiles(service.name, context)
    asked: Optional[log.Said] = None
    for left in reversed(range(_FORCED_TRIES)):
        asked = log.said(files.log_path, comfyui.PROMPT_SAID, asked)
        time.sleep(ANSWER_S)
        queue = _queue(service, files) or comfyui.Queue((), ())
        if _end(service, context, queue, asked if left else None, again=again):
            break
    return queue


def start_anew_in_place(service: Service, context: Context) -> bool:
    """Have the supervisor of *service* start its program anew, which keeps its secrets; what it was asked is kept too.

    Returns:
        False where there is no supervisor that does so: it has ended, or is of an earlier release.
    """
    files = ServiceFiles(service.name, context)
    status = files.status()
    if not status.is_running or not status.takes_restart or status.state == ADOPTED:
        return False
    _end_busy(service, context, again=True)
    return True


def _end(
    service: Service,
    context: Context,
    queue: comfyui.Queue,
    asked: Optional[log.Said],
    *,
    again: bool = False,
) -> bool:
    """End it, and keep what stands in *queue*; False, and it goes on, if it was asked since it had been *asked*.

    Args:
        again: Its supervisor starts it anew.
    """
    files = ServiceFiles(service.name, context)
    status = files.status()
    if status.child is not None and status.supervisor is not None:
        status.child.send(signal.SIGSTOP, group=True)
        try:
            # what it was told just now is in no list that we have
            if asked is not None and not _has_said_no_more(status.child, files.log_path, asked):
                return False
            if queue:
                _keep(files, queue.prompts)
            status.supervisor.send(signal.SIGUSR1 if again else signal.SIGTERM)
            status.child.send(signal.SIGTERM, group=True)
        finally:
            status.child.send(signal.SIGCONT, group=True)
    elif again and status.supervisor is not None:
        status.supervisor.send(signal.SIGUSR1)
    if not again:
        manager.stop(service.name, context)
    return True


def _has_said_no_more(child: Identity, log_path: str, asked: log.Said) -> bool:
    """Was *child*, which was told to stand still, asked no more than it had been *asked*?

    What it said last may be on its way to the log. So a line is sent after it, which comes when all before it is there.
    """
    end = time.monotonic() + SETTLE_S
    while not halted.is_halted(child.pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    mark = f"[provision] is there nothing to do? {os.urandom(8).hex()}"
    is_on_its_way = halted.say_for(child.pid, f"{mark}\n".encode())
    while is_on_its_way and log.said(log_path, mark, asked).times == asked.times:
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return log.said(log_path, comfyui.PROMPT_SAID, asked).times == asked.times


def start_again(service: Service, context: Context, venv: Optional[Venv], reason: str) -> None:
    """Start *service*, which was taken down, and report ``service_restarted``. Raises as `manager.start` does."""
    quiet = replace(context, report=lambda event, **fields: None)
    manager.start(service, quiet, venv)
    _report(service, context, reason)


def restart_by_its_own(service: Service, context: Context, venv: Optional[Venv], reason: str) -> bool:
    """Have *service*, which somebody else started, started again by whoever did that; False when nobody does.

    Raises:
        Failure: `crashed` when it was ended and does not come back.
    """
    status = ServiceFiles(service.name, context).status()
    if status.child is None or status.state != ADOPTED:
        return False
    by = init_system.restart(status.child.pid)
    if by is None:
        return False
    argv = commands.with_python(service.run, None if venv is None else venv.python)
    directory = os.path.join(context.workspace, service.directory)
    end = time.monotonic() + RETURN_S
    while status.child.is_alive() or adoption.find(argv, directory, None) is None:
        if time.monotonic() > end or context.wait(0.2):
            raise Failure("crashed", f"`{service.name}` did not come back after `{by}`", retriable=True)
    quiet = replace(context, report=lambda event, **fields: None)
    manager.start(service, quiet, venv)
    _report(service, context, f"{reason} (`{by}`)")
    return True


def is_running(service: Service, context: Context) -> bool:
    """True while it has not ended for good."""
    return ServiceFiles(service.name, context).status().is_running


def is_foreign(service: Service, context: Context) -> bool:
    """True when somebody else started it, an init system say."""
    return ServiceFiles(service.name, context).status().state == ADOPTED


def keep(service: Service, context: Context, prompts: List[object]) -> None:
    """Write down *prompts*, to be queued by `send_again` even if this agent is killed before."""
    _keep(ServiceFiles(service.name, context), prompts)


def send_again(service: Service, context: Context) -> Tuple[int, int]:
    """Queue again what was taken down with *service*; how many prompts those were, and how many of them it took."""
    files = ServiceFiles(service.name, context)
    try:
        with open(files.prompts_path, "rb") as file:
            prompts = json.load(file)  # our own, and as deep as a workflow is
    except (OSError, ValueError, RecursionError):
        return 0, 0
    ready = address_of(service, files.status())
    if ready is None or not isinstance(prompts, list):
        return 0, 0
    taken = comfyui.send_again(comfyui.base_of(ready), prompts)
    os.unlink(files.prompts_path)
    return len(prompts), taken


def _keep(files: ServiceFiles, prompts: List[object]) -> None:
    write_atomically(files.prompts_path, json.dumps(prompts).encode(), sync=False)


def _report(service: Service, context: Context, reason: str) -> None:
    status = ServiceFiles(service.name, context).status()
    context.report("service_restarted", item=service.name, level=service.level, reason=reason, pid=status.pid)


def _queue(service: Service, files: ServiceFiles) -> Optional[comfyui.Queue]:
    ready = address_of(service, files.status())
    return None if ready is None else comfyui.queue(comfyui.base_of(ready))


def _matters(change: changes.Change, service: Service, context: Context) -> bool:
    """Would *service* load it with a start?"""
    if change.kind == "package":
        return os.path.basename(service.run[0]).startswith("python")
    item = os.path.normpath(change.item)
    folder = os.path.relpath(nodes.folder_of(service, context), context.workspace)
    if folder in (".", item) or item.startswith(folder + os.sep):
        return True
    return any(item in word for word in (*service.run, *service.environment.values()))
