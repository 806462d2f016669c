"""Start the supervisor of a program, and hand it what it needs: the same way for services, jobs and the lifetime."""

from __future__ import annotations

import json
import os
import tempfile
import time
from typing import Dict, Iterator, Mapping, Optional, Protocol, Union

from ..contract.failures import Failure
from ..contract.parsing import to_json
from ..host import detach, process
from ..run.context import Report
from ..run.state import write_atomically
from ..steps.python.venv import Venv
from . import handover, supervisord, systemd
from .files import NEEDS_SECRETS, Order, ServiceFiles, Status

START_S = 15.0
STOP_S = 30.0
_OF_LOGIN = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_HOME")
"""systemd and supervisord hand their programs another environment than a login has."""


class Starter(Protocol):
    """Whoever starts a program, as a run's context does."""

    @property
    def workspace(self) -> str:
        """The folder that it works in."""

    @property
    def report(self) -> Report:
        """Tells what goes wrong on the way."""


def start(
    files: ServiceFiles, order: Order, starter: Starter, secrets: Mapping[str, str], *, lasts: bool = True
) -> Status:
    """Start a supervisor with *order*, and by it the program.

    Args:
        secrets: The values of all that the order's service names.
        lasts: The instance's own supervisor is to start it again after a reboot.

    Returns:
        What it says once it has started the program.

    Raises:
        Failure: `crashed` when it or the program cannot be started.
        OSError: the order cannot be written.
    """
    write_order(files, order)
    watcher = _supervised(files, starter, lasts=lasts)
    status = _first_status(files, watcher)
    return give(files, status, secrets) if status.state == NEEDS_SECRETS else status


def give(files: ServiceFiles, status: Status, secrets: Mapping[str, str]) -> Status:
    """Give a supervisor, which waits for them by its last *status*, its secrets; what it says after that.

    Raises:
        Failure: `crashed` when it does not take them, or the program cannot be started.
    """
    watcher = status.supervisor
    assert watcher is not None
    if not handover.give(status.door, watcher.pid, secrets):
        message = f"the supervisor of `{files.name}` does not take its secrets"
        raise Failure("crashed", message, retriable=True)
    return _first_status(files, watcher, has_given=True)


def write_order(files: ServiceFiles, order: Order) -> None:
    """Write down what a supervisor is to do. Raises OSError."""
    write_atomically(files.order_path, json.dumps(to_json(order)).encode(), sync=False)


def environment(own: Mapping[str, str], venv: Optional[Venv]) -> Dict[str, str]:
    """What a program has besides its supervisor's own: of this login only what is surely no secret.

    Args:
        own: The variables that its profile gives it.
        venv: The environment whose programs come first, if there is one.
    """
    login = {name: os.environ[name] for name in _OF_LOGIN if name in os.environ}
    login.setdefault("PATH", os.defpath)
    if venv is not None:
        path = os.path.dirname(venv.python) + os.pathsep + login["PATH"]
        login.update(PATH=path, VIRTUAL_ENV=venv.path)
    return dict(login, **own)


def _supervised(files: ServiceFiles, context: Starter, *, lasts: bool) -> detach.Identity:
    """Start the supervisor: below the instance's own where there is one that is to start it again, else detached."""
    for manager in init_managers() if lasts and _lasts(context.workspace) else ():
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


def init_managers() -> Iterator[Union[systemd.Systemd, supervisord.Supervisord]]:
    """What starts programs again on this instance, the better first."""
    for found in (systemd.find(), supervisord.find()):
        if found is not None:
            yield found


def _lasts(workspace: str) -> bool:
    """False in a folder for temporary files: after a boot nothing should be started from there."""
    temporary = {os.path.realpath(path) + os.sep for path in ("/tmp", tempfile.gettempdir())}  # noqa: S108
    return not os.path.realpath(workspace).startswith(tuple(temporary))


def _first_status(files: ServiceFiles, watcher: detach.Identity, *, has_given: bool = False) -> Status:
    """What the supervisor says once it has tried to start the program, or needs secrets that it was not given yet.

    Raises:
        Failure: `crashed` when it or the program cannot be started.
    """
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
    end_supervised(files)
    raise Failure("crashed", f"its supervisor did not start: {' | '.join(files.tail()[-3:])}")


def end_supervised(files: ServiceFiles, *, lasts: bool = True) -> None:
    """End the supervisor first, then the program, and wait until all of it is gone.

    Args:
        lasts: The instance's own init may have been told to start it.
    """
    status = files.status()
    for manager in init_managers() if lasts else ():
        manager.stop(files.program)
    for identity in (status.supervisor, status.child):
        if identity is not None:
            identity.end(within_s=STOP_S)
