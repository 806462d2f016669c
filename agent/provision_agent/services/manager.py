"""Programs that outlive the run: started once, adopted by the next run, ready when they themselves answer.

Nothing of a service depends on the agent or its keeper once `start` has returned: `supervisor.py` watches it, below
the instance's systemd or supervisord where one really runs, else from a session of its own. A port that answers is
believed only when the service itself listens there. A service that somebody else started, an image's own init say, is
taken as it is and never ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import replace
from typing import List, NamedTuple, Optional
from urllib.parse import urlsplit

from ..contract.failures import Failure
from ..contract.parsing import ParseError, to_json
from ..contract.plan import Service
from ..host import detach, sockets
from ..run.context import Context
from ..run.state import write_atomically
from ..steps import commands
from ..steps.python.venv import Venv
from . import adoption, changes, launch, log, supervisor, web
from .files import ADOPTED, NEEDS_SECRETS, Note, Order, ServiceFiles, Status, processes_in, read_order
from .supervisor import supervise_main as supervise_main  # the subcommand `supervise` looks for it here

_ALWAYS_IN_HASH = ("directory", "environment", "restart")
_NOT_IN_HASH = ("name", "run", "ready", "start", "log_failures", "on_start_failure", "level")
"""How it is judged makes no difference to how it runs; `run` is the argv."""


class Started(NamedTuple):
    """A service that runs. The pid and start time are those of its supervisor, which stays the same over restarts;
    of an adopted service they are its own."""

    name: str
    pid: int
    start_time: int
    is_new: bool = False
    """It did not run before."""


def start(service: Service, context: Context, venv: Optional[Venv], *, holds: bool = False) -> Started:
    """Start *service*, or adopt it when it runs already: the very same one of an earlier run, or somebody else's.

    Another one of an earlier run is stopped first. Reports ``service_started``.

    Args:
        holds: Its supervisor does not start it again when it ends, until `release` says that it may.

    Raises:
        Failure: `port_taken` when a foreign process listens on the port of the ready URL, `missing` without the
            working directory, `unauthorized` without a secret, `crashed` when it cannot be started.
    """
    files = ServiceFiles(service.name, context)
    files.make_folder()
    argv = commands.with_python(service.run, None if venv is None else venv.python)
    note = Note(_hash(service, argv))
    running = files.status()
    if running.is_running and running.note == note:
        if running.child is not None and running.state != ADOPTED:
            running.child.send(
                signal.SIGCONT, group=True
            )  # an agent may have been killed while it held it still
        if running.state == NEEDS_SECRETS and running.supervisor is not None:
            running = launch.give(files, running, commands.secrets_of(service.secrets, context))
        return _report_started(service, context, running, adopted=True)
    stop(service.name, context)
    directory = os.path.join(context.workspace, service.directory)
    other = adoption.find(argv, directory, _port(service), known=processes_in(context.workspace))
    if other is not None:
        return _adopt(service, other, files, note, context)
    _require_port(service)
    secrets = commands.secrets_of(service.secrets, context)
    if not os.path.isdir(directory):
        message = f"`{service.name}` runs in `{service.directory}`, which is not there"
        raise Failure("missing", message, case="service_folder")
    order = Order(
        service=service,
        argv=tuple(argv),
        directory=directory,
        environment=launch.environment(service.environment, venv),
        log=files.log_path,
        status=files.status_path,
        backoff_s=supervisor.BACKOFF_S,
        max_log_bytes=log.MAX_BYTES,
        note=note,
        holds=holds,
        changes=changes.path_of(context.workspace),
    )
    log.set_previous_aside(files.log_path)
    status = launch.start(files, order, context, secrets)
    return _report_started(service, context, status, adopted=False)


def release(name: str, context: Context) -> None:
    """What `start` held back: from now on the supervisor starts the service *name* again as its order says."""
    files = ServiceFiles(name, context)
    try:
        order = read_order(files.order_path)
    except (OSError, ParseError):
        return
    if order.holds:
        launch.write_order(files, replace(order, holds=False))


def stop(name: str, context: Context) -> None:
    """End the service *name*, its supervisor first, and wait until all of it is gone.

    Does nothing if it does not run, or was started by somebody else.
    """
    files = ServiceFiles(name, context)
    status = files.status()
    if status.state == ADOPTED:
        return
    launch.end_supervised(files)


def _hash(service: Service, argv: List[str]) -> str:
    """Equal for services that would run the same way.

    A field that is as it is without a word counts as not there, so that one which comes with a later version changes nothing.
    """
    told = to_json(replace(service, secrets=tuple(sorted(service.secrets))))
    unsaid = to_json(Service(service.name, service.run))
    how = {
        name: value
        for name, value in told.items()
        if name in _ALWAYS_IN_HASH or (name not in _NOT_IN_HASH and value != unsaid[name])
    }
    how["argv"] = argv
    return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()


def _adopt(service: Service, pid: int, files: ServiceFiles, note: Note, context: Context) -> Started:
    """Take the running process *pid* as *service*."""
    process_ = detach.Identity.of(pid)
    loaded = changes.Changes(context.workspace, context.report).at(process_)
    status = Status(ADOPTED, note, child=process_, loaded=loaded)
    write_atomically(files.status_path, json.dumps(to_json(status)).encode(), sync=False)
    message = (
        f"`{service.name}` runs already as {sockets.describe(pid)}, started by something else: it is taken as it is, "
        "and loads what was installed since when it is restarted"
    )
    context.report("warning", message=message)
    return _report_started(service, context, status, adopted=True)


def _report_started(service: Service, context: Context, status: Status, *, adopted: bool) -> Started:
    watcher = status.watched
    assert watcher is not None
    context.report("service_started", item=service.name, level=service.level, pid=status.pid, adopted=adopted)
    return Started(service.name, watcher.pid, watcher.start_time, is_new=not adopted)


def _port(service: Service) -> Optional[int]:
    return None if service.ready is None else web.port_of(urlsplit(service.ready.url))


def _require_port(service: Service) -> None:
    """The port of the ready URL must be free before the start: two servers on one port answer for each other."""
    if service.ready is None:
        return
    url = urlsplit(service.ready.url)
    host, port = url.hostname or "", web.port_of(url)
    if not sockets.is_local(host):
        return
    for listener in sockets.listeners(host, port):
        owner = (
            ", ".join(map(sockets.describe, sorted(listener.pids)))
            or "a process that cannot be seen from here"
        )
        pid = min(listener.pids, default=0)
        raise Failure(
            "port_taken",
            f"port {port} of `{service.name}` is taken by {owner}",
            case="port_of_process" if pid else None,
            about={"pid": pid},
        )
