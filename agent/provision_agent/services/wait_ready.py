"""Waits until a service is ready, or can never be: it runs, it is the one that answers, and it answers as wanted."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import List, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ..contract.failures import Failure
from ..contract.plan import Ready, Service
from ..host import sockets
from ..host.detach import argv_of
from ..run.context import Context
from ..steps import nodes
from . import comfyui, log, readiness, web
from .files import ADOPTED, ServiceFiles, Status

POLL_S = 0.5
POLL_AGAIN_S = 0.02
"""Between looks at a service that ran before."""
SAY_EVERY_S = 8.0
_ON_CPU = re.compile(r"(?<![\w-])--cpu(?![\w-])")


def wait_ready(
    service: Service,
    context: Context,
    models: Sequence[str] = (),
    *,
    has_gpu: bool = False,
    is_new: bool = True,
) -> None:
    """Wait until *service*, which was started, answers as its plan says, and then again as often as that wants.

    It is given up when it has said nothing for as long as its plan gives it; while its log grows, a node that
    compiles or fetches something say, it has until the run's deadline.

    Args:
        models: Files of the workspace; a ComfyUI must offer those that are there and in its own folder.
        has_gpu: The instance has a GPU: the service must see it, unless it runs with ``--cpu``.
        is_new: It did not run before.

    Reports ``service_ready``, and ``service_progress`` while it waits.

    Raises:
        Failure: `crashed` as soon as it has ended for good, with the last lines of its log; `not_ready` or
            `port_taken` when its time is over.
    """
    files = ServiceFiles(service.name, context)
    item = {"item": service.name, "level": service.level}
    if service.ready is None:
        _require_alive(service, files)
        context.report("service_ready", url=None, **item)
        return
    offered = _own_models(service, models, context)
    growth = log.Growth(files.log_path, urlsplit(service.ready.url).path)
    began = said = grew = time.monotonic()
    successes = 0
    while True:
        status = _require_alive(service, files)
        needs_gpu = has_gpu and not _is_on_cpu(service, status)
        ready, answer = _look(service.ready, status, offered, needs_gpu=needs_gpu)
        successes = 0 if answer.problem else successes + 1
        if successes >= ready.successes:
            context.report("service_ready", url=ready.url, **item)
            return
        now = time.monotonic()
        grew = now if growth.has_come() else grew
        if now - grew >= service.ready.within_s or context.remaining_s() <= 0:
            problem = answer.problem or "too few good answers"
            silent = f", and its log is silent since {now - grew:.0f} s" if grew > began else ""
            message = f"`{service.name}` was not ready within {now - began:.0f} s{silent}: {problem}"
            about = {"path": files.log_path}
            raise Failure(answer.class_, message, case="service_log", about=about, tail=files.tail())
        if now - said >= SAY_EVERY_S:
            said = now
            message = f"waiting for it since {now - began:.0f} s: {answer.problem}"
            context.report("service_progress", message=message, **item)
        if context.cancelled.wait(POLL_S if is_new or answer.problem else POLL_AGAIN_S):
            raise Failure("timed_out", "stopped: the run was ended", retriable=True)


def _own_models(service: Service, models: Sequence[str], context: Context) -> List[str]:
    """Those of *models* that are there, as the service sees them from its folder."""
    own = nodes.folder_of(service, context)
    paths = (os.path.join(context.workspace, model) for model in models)
    return [os.path.relpath(path, own) for path in paths if os.path.isfile(path)]


def _is_on_cpu(service: Service, status: Status) -> bool:
    """Is it told to leave the GPU alone? By its own words, its environment's, or those of the process that runs."""
    own = argv_of(status.pid) if status.pid is not None else ()
    words = [*service.run, *service.environment.values(), *own]
    return any(_ON_CPU.search(word) for word in words)


def _look(
    ready: Ready, status: Status, offered: Sequence[str], *, needs_gpu: bool
) -> Tuple[Ready, readiness.Answer]:
    """One look at the service, and what was really asked."""
    ready = _where_it_listens(ready, status)
    answer = readiness.look(ready, status.pid, needs_gpu=needs_gpu)
    if not answer.problem and offered and comfyui.is_meant(ready):
        answer = readiness.Answer(comfyui.unlisted(comfyui.base_of(ready), offered))
    return ready, answer


def address_of(service: Service, status: Status) -> Optional[Ready]:
    """Where *service* really answers: one that an image started may listen elsewhere. None when nobody says."""
    return None if service.ready is None else _where_it_listens(service.ready, status)


def _where_it_listens(ready: Ready, status: Status) -> Ready:
    """*ready*; of a service that somebody else started with the port on which it really listens."""
    if status.child is None or status.state != ADOPTED:
        return ready
    url = urlsplit(ready.url)
    ports = sockets.ports_of(status.child.pid)
    if not ports or web.port_of(url) in ports:
        return ready
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return replace(ready, url=url._replace(netloc=f"{host}:{ports[0]}").geturl())


def _require_alive(service: Service, files: ServiceFiles) -> Status:
    status = files.status()
    if status.is_running:
        return status
    tail = files.tail()
    times = f" {status.starts} times, each time soon" if status.state == "gave_up" else ""
    code = status.exit_status
    if status.state == ADOPTED:
        raise Failure(
            "crashed",
            f"`{service.name}`, which ran already and was taken as it was, has ended",
            case="adopted_ended",
            retriable=True,
        )
    how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
    last = tail[-1] if tail else "nothing in its log"
    raise Failure(
        "crashed",
        f"`{service.name}` {how}{times}: {last}",
        case="service_log",
        about={"path": files.log_path},
        tail=tail,
    )
