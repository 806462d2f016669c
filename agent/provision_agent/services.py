"""Programs that outlive the run: started once, adopted by the next run, ready when they themselves answer.

Nothing of a service depends on the agent or its keeper once `start` has returned: `supervisor.py` watches it from
a session of its own. A port that answers is believed only when the service itself listens there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from typing import Any, Dict, List, NamedTuple, Optional
from urllib.parse import urlsplit

from . import commands, detach, process, readiness, sockets, supervisor
from .context import Context
from .environment.venv import Venv
from .failures import Failure
from .plan import Service
from .supervisor import supervise_main as supervise_main  # the subcommand `supervise` looks for it here

START_S = 15.0
STOP_S = 30.0
POLL_S = 0.5
SAY_EVERY_S = 8.0
TAIL_LINES = 20
_ENDED = ("exited", "gave_up", "not_started", "stopped")


class Started(NamedTuple):
    """A service that runs. The pid and start time are those of its supervisor, which stays the same over restarts."""

    name: str
    pid: int
    start_time: int


def start(service: Service, context: Context, venv: Optional[Venv]) -> Started:
    """Start *service*, or adopt it when the very same one runs already from an earlier run; another one is stopped.

    Reports ``service_started``.

    Raises:
        Failure: `port_taken` when a foreign process listens on the port of the ready URL, `missing` without the
            working directory, `crashed` when it cannot be started.
    """
    files = _Files(service.name, context)
    argv = commands.with_python(service.run, None if venv is None else venv.python)
    note = {"hash": _hash(service, argv), "log_from": files.log_size()}
    running = files.status()
    if _is_running(running) and running["note"].get("hash") == note["hash"]:
        return _report_started(service, context, running, adopted=True)
    stop(service.name, context)
    _require_port(service)
    directory = os.path.join(context.workspace, service.directory)
    if not os.path.isdir(directory):
        raise Failure("missing", f"`{service.name}` runs in `{service.directory}`, which is not there")
    order = {
        "argv": argv,
        "directory": directory,
        "environment": _environment(service, venv),
        "restart": service.restart,
        "backoff_s": supervisor.BACKOFF_S,
        "status": files.status_path,
        "note": note,
    }
    watcher = detach.spawn_detached(
        detach.agent_argv("supervise", service.name),
        log_path=files.log_path,
        environment=process.child_environment(),
        directory=context.workspace,
        stdin=json.dumps(order).encode(),
    )
    return _report_started(service, context, _first_status(files, watcher), adopted=False)


def wait_ready(service: Service, started: Started, context: Context) -> None:
    """Wait until *service* answers as its plan says: process alive, port, URL, content; then the same again.

    Reports ``service_ready``, and ``service_progress`` while it waits.

    Raises:
        Failure: `crashed` as soon as it has ended for good, with the last lines of its log; `not_ready` or
            `port_taken` when its time is over.
    """
    files = _Files(service.name, context)
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
        answer = readiness.look(ready, (status.get("child") or {}).get("pid"))
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
    """End the service *name*, its supervisor first, and wait until all of it is gone; does nothing if it does not run."""
    status = _Files(name, context).status()
    for key in ("supervisor", "child"):
        identity = detach.Identity.from_json(status.get(key) or {})
        if identity is not None:
            identity.end(within_s=STOP_S)


class _Files:
    """Where a service's log and status are: beside the runs, since it outlives them."""

    def __init__(self, name: str, context: Context) -> None:
        folder = os.path.join(os.path.dirname(os.path.dirname(context.run_directory)), "services")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        self.log_path = os.path.join(folder, f"{safe}.log")
        self.status_path = os.path.join(folder, f"{safe}.status.json")

    def status(self) -> Dict[str, Any]:
        """What its supervisor last wrote; empty when there never was one."""
        try:
            with open(self.status_path, encoding="utf-8") as file:
                status: Dict[str, Any] = json.load(file)
                return status
        except (OSError, ValueError):
            return {}

    def log_size(self) -> int:
        try:
            return os.path.getsize(self.log_path)
        except OSError:
            return 0

    def tail(self) -> List[str]:
        """The last lines that the service has written since it was started."""
        start = max(int(self.status().get("note", {}).get("log_from", 0)), self.log_size() - 64 * 1024)
        try:
            with open(self.log_path, "rb") as file:
                file.seek(start)
                return file.read().decode("utf-8", "replace").splitlines()[-TAIL_LINES:]
        except OSError:
            return []


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


def _is_running(status: Dict[str, Any]) -> bool:
    identity = detach.Identity.from_json(status.get("supervisor") or {})
    return identity is not None and identity.is_alive() and status["state"] not in _ENDED


def _first_status(files: _Files, watcher: detach.Identity) -> Dict[str, Any]:
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
    raise Failure("crashed", f"its supervisor did not start: {' | '.join(files.tail()[-3:])}")


def _report_started(service: Service, context: Context, status: Dict[str, Any], *, adopted: bool) -> Started:
    watcher, child = status["supervisor"], status.get("child") or {}
    context.report(
        "service_started", item=service.name, level=service.level, pid=child.get("pid"), adopted=adopted
    )
    return Started(service.name, int(watcher["pid"]), int(watcher["start_time"]))


def _require_alive(service: Service, files: _Files) -> Dict[str, Any]:
    status = files.status()
    if _is_running(status):
        return status
    tail = files.tail()
    times = f" {status['starts']} times, each time soon" if status.get("state") == "gave_up" else ""
    code = status.get("exit_status")
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
