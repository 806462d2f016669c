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
import tempfile
import time
from dataclasses import replace
from typing import Dict, Iterator, List, NamedTuple, Optional, Union
from urllib.parse import urlsplit

from ..contract.failures import Failure
from ..contract.parsing import ParseError, to_json
from ..contract.plan import Service
from ..host import detach, process, sockets
from ..run.context import Context
from ..run.state import write_atomically
from ..steps import commands
from ..steps.python.venv import Venv
from . import adoption, changes, handover, log, supervisor, supervisord, systemd, web
from .files import ADOPTED, NEEDS_SECRETS, Note, Order, ServiceFiles, Status, read_order
from .supervisor import supervise_main as supervise_main  # the subcommand `supervise` looks for it here

START_S = 15.0
STOP_S = 30.0
_ALWAYS_IN_HASH = ("directory", "environment", "restart")
_NOT_IN_HASH = ("name", "run", "ready", "start", "log_failures", "on_start_failure", "level")
"""How it is judged makes no difference to how it runs; `run` is the argv."""
_OF_LOGIN = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_HOME")
"""systemd and supervisord hand their programs another environment than a login has."""


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
            _hand_over(service, running, context)
            running = _first_status(files, running.supervisor, context, has_given=True)
        return _report_started(service, context, running, adopted=True)
    stop(service.name, context)
    directory = os.path.join(context.workspace, service.directory)
    other = adoption.find(argv, directory, _port(service), known=files.processes())
    if other is not None:
        return _adopt(service, other, files, note, context)
    _require_port(service)
    commands.require_secrets(service.secrets, context)
    if not os.path.isdir(directory):
        message = f"`{service.name}` runs in `{service.directory}`, which is not there"
        raise Failure("missing", message, case="service_folder")
    order = Order(
        service=service,
        argv=tuple(argv),
        directory=directory,
        environment=_environment(service, venv),
        log=files.log_path,
        status=files.status_path,
        backoff_s=supervisor.BACKOFF_S,
        max_log_bytes=log.MAX_BYTES,
        note=note,
        holds=holds,
        changes=changes.path_of(context.workspace),
    )
    _write(files, order)
    log.set_previous_aside(files.log_path)
    watcher = _supervised(files, context)
    status = _first_status(files, watcher, context)
    if status.state == NEEDS_SECRETS:
        _hand_over(service, status, context)
        status = _first_status(files, watcher, context, has_given=True)
    return _report_started(service, context, status, adopted=False)


def release(name: str, context: Context) -> None:
    """What `start` held back: from now on the supervisor starts the service *name* again as its order says."""
    files = ServiceFiles(name, context)
    try:
        order = read_order(files.order_path)
    except (OSError, ParseError):
        return
    if order.holds:
        _write(files, replace(order, holds=False))


def _write(files: ServiceFiles, order: Order) -> None:
    write_atomically(files.order_path, json.dumps(to_json(order)).encode(), sync=False)


def _hand_over(service: Service, status: Status, context: Context) -> None:
    """Give the supervisor, which waits for them, the values of the service's secrets."""
    commands.require_secrets(service.secrets, context)
    values = {name: context.secrets[name] for name in service.secrets}
    assert status.supervisor is not None
    if not handover.give(status.door, status.supervisor.pid, values):
        raise Failure(
            "crashed", f"the supervisor of `{service.name}` does not take its secrets", retriable=True
        )


def stop(name: str, context: Context) -> None:
    """End the service *name*, its supervisor first, and wait until all of it is gone.

    Does nothing if it does not run, or was started by somebody else.
    """
    files = ServiceFiles(name, context)
    status = files.status()
    if status.state == ADOPTED:
        return
    for manager in _managers():
        manager.stop(files.program)
    for identity in (status.supervisor, status.child):
        if identity is not None:
            identity.end(within_s=STOP_S)


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


def _environment(service: Service, venv: Optional[Venv]) -> Dict[str, str]:
    """What the program has besides its supervisor's own: of this login only what is surely no secret."""
    login = {name: os.environ[name] for name in _OF_LOGIN if name in os.environ}
    login.setdefault("PATH", os.defpath)
    if venv is not None:
        path = os.path.dirname(venv.python) + os.pathsep + login["PATH"]
        login.update(PATH=path, VIRTUAL_ENV=venv.path)
    return dict(login, **service.environment)


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


def _supervised(files: ServiceFiles, context: Context) -> detach.Identity:
    """Start the supervisor: below the instance's own where there is one, else detached."""
    for manager in _managers() if _lasts(context.workspace) else ():
        try:
            return detach.Identity.of(manager.start(files.program, files.lasting_argv()))
        except Failure as failure:
            context.report("warning", message=f"{failure.message}; it is started without")
    return detach.spawn_detached(
        detach.agent_argv("supervise", files.name, files.order_path),
        log_path=files.log_path,
        environment=process.child_environment(),
        directory=context.workspace,
    )


def _managers() -> Iterator[Union[systemd.Systemd, supervisord.Supervisord]]:
    """What starts programs again on this instance, the better first."""
    for found in (systemd.find(), supervisord.find()):
        if found is not None:
            yield found


def _lasts(workspace: str) -> bool:
    """False in a folder for temporary files: after a boot nothing should be started from there."""
    temporary = {os.path.realpath(path) + os.sep for path in ("/tmp", tempfile.gettempdir())}  # noqa: S108
    return not os.path.realpath(workspace).startswith(tuple(temporary))


def _first_status(
    files: ServiceFiles, watcher: detach.Identity, context: Context, *, has_given: bool = False
) -> Status:
    """What the supervisor says once it has tried to start the program, or needs secrets that it was not given yet."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        status = files.status()
        is_its = status.supervisor is not None and status.supervisor.pid == watcher.pid
        if is_its and (status.state != NEEDS_SECRETS or not has_given):
            if status.state == "not_started":
                raise Failure("crashed", status.message, case="service_command")
            return status
        if not watcher.is_alive():
            break
        time.sleep(0.02)
    watcher.end(within_s=STOP_S)
    stop(files.name, context)
    raise Failure("crashed", f"its supervisor did not start: {' | '.join(files.tail()[-3:])}")


def _report_started(service: Service, context: Context, status: Status, *, adopted: bool) -> Started:
    watcher, pid = status.watched, None if status.child is None else status.child.pid
    assert watcher is not None
    context.report("service_started", item=service.name, level=service.level, pid=pid, adopted=adopted)
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
