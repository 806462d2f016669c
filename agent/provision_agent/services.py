"""Programs that outlive the run: started once, adopted by the next run, ready when they themselves answer.

Nothing of a service depends on the agent or its keeper once `start` has returned: `supervisor.py` watches it from
a session of its own, or below the image's own supervisord (`supervisord.py`). A port that answers is believed only when the service itself listens there. A service that
somebody else started, an image's own init say, is taken as it is and never ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import replace
from typing import Any, Dict, List, NamedTuple, Optional
from urllib.parse import urlsplit

from . import adoption, commands, detach, process, readiness, service_log, sockets, supervisor, supervisord
from .context import Context
from .environment.venv import Venv
from .failures import Failure
from .plan import Ready, Service
from .service_files import ADOPTED, ServiceFiles, is_running, watched
from .state import write_atomically
from .supervisor import supervise_main as supervise_main  # the subcommand `supervise` looks for it here

START_S = 15.0
STOP_S = 30.0
POLL_S = 0.5
SAY_EVERY_S = 8.0


class Started(NamedTuple):
    """A service that runs. The pid and start time are those of its supervisor, which stays the same over restarts;
    of an adopted service they are its own."""

    name: str
    pid: int
    start_time: int


def start(service: Service, context: Context, venv: Optional[Venv]) -> Started:
    """Start *service*, or adopt it when it runs already: the very same one of an earlier run, or somebody else's.

    Another one of an earlier run is stopped first. Reports ``service_started``.

    Raises:
        Failure: `port_taken` when a foreign process listens on the port of the ready URL, `missing` without the
            working directory, `crashed` when it cannot be started.
    """
    files = ServiceFiles(service.name, context)
    argv = commands.with_python(service.run, None if venv is None else venv.python)
    note = {"hash": _hash(service, argv)}
    running = files.status()
    if is_running(running) and running["note"].get("hash") == note["hash"]:
        return _report_started(service, context, running, adopted=True)
    stop(service.name, context)
    directory = os.path.join(context.workspace, service.directory)
    other = adoption.find(argv, directory, _port(service), known=files.processes())
    if other is not None:
        return _adopt(service, other, files, note, context)
    _require_port(service)
    if not os.path.isdir(directory):
        raise Failure("missing", f"`{service.name}` runs in `{service.directory}`, which is not there")
    how = {"argv": argv, "directory": directory, "environment": _environment(service, venv)}
    _write_order(dict(how, restart=service.restart, note=note), files)
    service_log.set_previous_aside(files.log_path)
    watcher = _supervised(files, context)
    return _report_started(service, context, _first_status(files, watcher, context), adopted=False)


def wait_ready(service: Service, started: Started, context: Context) -> None:
    """Wait until *service* answers as its plan says: process alive, port, URL, content; then the same again.

    Reports ``service_ready``, and ``service_progress`` while it waits.

    Raises:
        Failure: `crashed` as soon as it has ended for good, with the last lines of its log; `not_ready` or
            `port_taken` when its time is over.
    """
    files = ServiceFiles(service.name, context)
    ready = service.ready
    if ready is None:
        _require_alive(service, files)
        context.report("service_ready", item=service.name, level=service.level, url=None)
        return
    within_s = min(ready.within_s, context.remaining_s())
    began = said = time.monotonic()
    successes = 0
    while True:
        status = _require_alive(service, files)
        child: Optional[int] = (status.get("child") or {}).get("pid")
        if child is not None and status["state"] == ADOPTED:
            ready = _where_it_listens(ready, child)
        answer = readiness.look(ready, child)
        successes = 0 if answer.problem else successes + 1
        if successes >= ready.successes:
            context.report("service_ready", item=service.name, level=service.level, url=ready.url)
            return
        now = time.monotonic()
        if now - began >= within_s:
            message = f"`{service.name}` was not ready within {within_s:.0f} s: {answer.problem or 'too few good answers'}"
            raise Failure(
                answer.class_, message, hint=f"read {files.log_path} on the instance", tail=files.tail()
            )
        if now - said >= SAY_EVERY_S:
            said = now
            message = f"waiting for it since {now - began:.0f} s: {answer.problem}"
            context.report("service_progress", item=service.name, level=service.level, message=message)
        if context.cancelled.wait(min(POLL_S, within_s)):
            raise Failure("timed_out", "stopped: the run was ended", retriable=True)


def stop(name: str, context: Context) -> None:
    """End the service *name*, its supervisor first, and wait until all of it is gone.

    Does nothing if it does not run, or was started by somebody else.
    """
    files = ServiceFiles(name, context)
    status = files.status()
    if status.get("state") == ADOPTED:
        return
    manager = supervisord.find()
    if manager is not None:
        manager.stop(files.program)
    for key in ("supervisor", "child"):
        identity = detach.Identity.from_json(status.get(key) or {})
        if identity is not None:
            identity.end(within_s=STOP_S)


def _hash(service: Service, argv: List[str]) -> str:
    """Equal for services that would run the same way; how readiness is judged makes no difference."""
    how = {
        "argv": argv,
        "directory": service.directory,
        "environment": service.environment,
        "restart": service.restart,
    }
    return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()


def _environment(service: Service, venv: Optional[Venv]) -> Dict[str, str]:
    if venv is None:
        return dict(service.environment)
    path = os.path.dirname(venv.python) + os.pathsep + os.environ.get("PATH", os.defpath)
    return dict({"PATH": path, "VIRTUAL_ENV": venv.path}, **service.environment)


def _adopt(
    service: Service, pid: int, files: ServiceFiles, note: Dict[str, Any], context: Context
) -> Started:
    """Take the running process *pid* as *service*."""
    child = detach.Identity.of(pid).as_json()
    status = {"state": ADOPTED, "note": note, "child": child}
    write_atomically(files.status_path, json.dumps(status).encode(), sync=False)
    message = (
        f"`{service.name}` runs already as {sockets.describe(pid)}, started by something else: it is taken as it is, "
        "and loads what was installed since when it is restarted"
    )
    context.report("warning", message=message)
    return _report_started(service, context, status, adopted=True)


def _where_it_listens(ready: Ready, pid: int) -> Ready:
    """*ready* with the port on which *pid* really listens, which its image chose."""
    url = urlsplit(ready.url)
    ports = sockets.ports_of(pid)
    if not ports or readiness.port_of(url) in ports:
        return ready
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return replace(ready, url=url._replace(netloc=f"{host}:{ports[0]}").geturl())


def _write_order(how: Dict[str, Any], files: ServiceFiles) -> None:
    """Leave for the supervisor what it is to run, and where it writes."""
    order = dict(
        how,
        backoff_s=supervisor.BACKOFF_S,
        log=files.log_path,
        max_log_bytes=service_log.MAX_BYTES,
        status=files.status_path,
    )
    write_atomically(files.order_path, json.dumps(order).encode(), sync=False)


def _supervised(files: ServiceFiles, context: Context) -> detach.Identity:
    """Start the supervisor: below the image's supervisord where there is one, else detached."""
    manager = supervisord.find()
    if manager is not None:
        try:
            pid = manager.start(files.program, files.lasting_argv(), context.workspace)
            return detach.Identity.of(pid)
        except Failure as failure:
            context.report("warning", message=f"{failure.message}; it is started without")
    return detach.spawn_detached(
        detach.agent_argv("supervise", files.name, files.order_path),
        log_path=files.log_path,
        environment=process.child_environment(),
        directory=context.workspace,
    )


def _first_status(files: ServiceFiles, watcher: detach.Identity, context: Context) -> Dict[str, Any]:
    """What the supervisor says once it has tried to start the program."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        status = files.status()
        if (status.get("supervisor") or {}).get("pid") == watcher.pid:
            if status["state"] == "not_started":
                raise Failure(
                    "crashed", str(status["message"]), hint="correct `run:` of the service in the profile"
                )
            return status
        if not watcher.is_alive():
            break
        time.sleep(0.02)
    watcher.end(within_s=STOP_S)
    stop(files.name, context)
    raise Failure("crashed", f"its supervisor did not start: {' | '.join(files.tail()[-3:])}")


def _report_started(service: Service, context: Context, status: Dict[str, Any], *, adopted: bool) -> Started:
    watcher, child = watched(status), status.get("child") or {}
    context.report(
        "service_started", item=service.name, level=service.level, pid=child.get("pid"), adopted=adopted
    )
    return Started(service.name, int(watcher["pid"]), int(watcher["start_time"]))


def _require_alive(service: Service, files: ServiceFiles) -> Dict[str, Any]:
    status = files.status()
    if is_running(status):
        return status
    tail = files.tail()
    times = f" {status['starts']} times, each time soon" if status.get("state") == "gave_up" else ""
    code = status.get("exit_status")
    if status.get("state") == ADOPTED:
        raise Failure(
            "crashed",
            f"`{service.name}`, which ran already and was taken as it was, has ended",
            hint="run the same `provision up` again: it starts the service itself if nothing else does",
            retriable=True,
        )
    how = (
        f"was ended by signal {-code}" if isinstance(code, int) and code < 0 else f"ended with status {code}"
    )
    last = tail[-1] if tail else "nothing in its log"
    raise Failure(
        "crashed",
        f"`{service.name}` {how}{times}: {last}",
        hint=f"read {files.log_path} on the instance",
        tail=tail,
    )


def _port(service: Service) -> Optional[int]:
    return None if service.ready is None else readiness.port_of(urlsplit(service.ready.url))


def _require_port(service: Service) -> None:
    """The port of the ready URL must be free before the start: two servers on one port answer for each other."""
    if service.ready is None:
        return
    url = urlsplit(service.ready.url)
    host, port = url.hostname or "", readiness.port_of(url)
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
            hint=f"end it (`kill {pid}`), or give the service and its ready URL another port"
            if pid
            else None,
        )
