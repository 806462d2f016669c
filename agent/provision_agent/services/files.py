"""What one workspace knows of its services: orders, logs and status, beside the runs since they outlive them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Protocol, Tuple

from ..contract.failures import disk_failure
from ..contract.parsing import ParseError, bounded, parse, read_object
from ..contract.plan import Service
from ..host import detach
from ..host.folders import make_private
from .log import MAX_BYTES, last_lines

TAIL_LINES = 20
ADOPTED = "adopted"
"""The state of a service that somebody else started: it has no supervisor of ours."""
NEEDS_SECRETS = "secrets_needed"
"""The state of a service that waits for the values of its secrets, which are on no disk."""
STARTING = "starting"
"""The state before its supervisor has written its first."""
TIMED_OUT = "timed_out"
"""The state of a program that was ended since it took too long."""
_ENDED = ("exited", "gave_up", "not_started", "stopped", TIMED_OUT)
_STATUS, _ORDER = ".status.json", ".order.json"


MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class Note:
    """Which service it is: `hash` is equal for those that would run the same way."""

    hash: str = bounded("", max_chars=64)


@dataclass(frozen=True)
class Order:
    """What a supervisor is to run, and where it writes."""

    service: Service
    """As its profile has it; below, what is made of that on this instance."""
    argv: Tuple[str, ...] = bounded(max_chars=MAX_FILE_BYTES)
    directory: str = bounded()
    environment: Dict[str, str] = bounded(max_chars=MAX_FILE_BYTES)
    """Besides its own."""
    log: str = bounded()
    status: str = bounded()
    backoff_s: float = bounded(1.0, low=0, high=3600)
    """Before the first restart; later ones wait longer."""
    max_log_bytes: int = bounded(MAX_BYTES, low=1)
    note: Note = Note()
    holds: bool = False
    """Its first end is its last: what is to be done before a second start comes from outside."""
    changes: str = ""
    """The file of the changes that it loads with a start."""
    timeout_s: Optional[float] = bounded(None, low=0, high=1e9)
    """After this the program is ended, and not started again."""
    secrets_within_s: Optional[float] = bounded(None, low=0, high=1e9)
    """So long it waits for its secrets, and then goes on without them; None: until they come."""


@dataclass(frozen=True)
class Status:
    """What became of a service; without a `state`, it never was started."""

    state: str = bounded("", max_chars=64)
    note: Note = Note()
    supervisor: Optional[detach.Identity] = None
    child: Optional[detach.Identity] = None
    starts: int = bounded(0, low=0)
    exit_status: Optional[int] = None
    message: str = ""
    loaded: Optional[int] = bounded(None, low=0)
    """The newest change when it was started last: see `changes`."""
    door: str = bounded("", max_chars=128)
    """Where it takes secrets, while it needs some."""
    lived_s: Optional[float] = bounded(None, low=0, high=1e11)
    """How long the program ran, once it has ended."""
    lacks_secrets: bool = False
    """It was started without the secrets that it was to have."""
    takes_restart: bool = False
    """USR1 to its supervisor starts its program anew; older ones end by it."""

    @property
    def watched(self) -> Optional[detach.Identity]:
        """The process whose end is the service's: its supervisor, or itself when somebody else started it."""
        return self.child if self.state == ADOPTED else self.supervisor

    @property
    def pid(self) -> Optional[int]:
        """The program's; None while there is none."""
        return None if self.child is None else self.child.pid

    @property
    def has_ended(self) -> bool:
        """It has ended for good, and this says how."""
        return self.state in _ENDED

    @property
    def is_running(self) -> bool:
        """It has not ended for good."""
        return self.watched is not None and self.watched.is_alive() and self.state not in _ENDED


class InWorkspace(Protocol):
    """Whatever knows its workspace, as a run's context does."""

    @property
    def workspace(self) -> str:
        """Its folder."""


class ServiceFiles:
    """Where a service's log and status are: beside the runs, since it outlives them. Others have folders of their own.

    Args:
        folder: Where they are; None: with the services of the context's workspace.
        stem: What they are called there; empty: as the service.
    """

    def __init__(
        self, name: str, context: InWorkspace, *, folder: Optional[str] = None, stem: str = ""
    ) -> None:
        folder = folder or _folder_of(context.workspace)
        self._folder = folder
        self.name = name
        safe = stem or re.sub(r"[^A-Za-z0-9._-]", "_", name)
        self.log_path = os.path.join(folder, f"{safe}.log")
        self.prompts_path = os.path.join(folder, f"{safe}.prompts.json")
        """What its queue held when it was taken down, until that is queued again."""
        self.order_path = os.path.join(folder, f"{safe}{_ORDER}")
        self.agent_path = os.path.join(folder, f"{safe}.pyz")
        """A copy of the agent's file, for a supervisord that may need it when all runs are pruned."""
        self.program = f"provision-{safe}-{hashlib.sha256(context.workspace.encode()).hexdigest()[:8]}"
        self.status_path = os.path.join(folder, f"{safe}{_STATUS}")

    def make_folder(self) -> None:
        """Before anything is written. Raises Failure where it cannot be made, is a link, or another user's."""
        try:
            make_private(os.path.dirname(self._folder))
            make_private(self._folder)
        except OSError as error:
            raise disk_failure(error, self._folder) from None

    def status(self) -> Status:
        """What its supervisor last wrote; empty when there never was one."""
        return read_status(self.status_path)

    def lasting_argv(self) -> List[str]:
        """The command of its supervisor for a time when this run and its agent's file may be gone."""
        words = ("supervise", self.name, self.order_path)
        archive = detach.own_place()
        if not os.path.isfile(archive):
            return detach.agent_argv(*words)
        shutil.copyfile(archive, self.agent_path)
        return detach.agent_argv(*words, place=self.agent_path)

    def tail(self) -> List[str]:
        """The last lines that the service has written since it was started; none of one that was adopted."""
        if self.status().state == ADOPTED:
            return []
        return last_lines(self.log_path, TAIL_LINES)


def processes_in(workspace: str) -> List[int]:
    """Of every service of a workspace that runs."""
    statuses = map(read_status, _paths_in(workspace, _STATUS))
    return [each.child.pid for each in statuses if each.is_running and each.child is not None]


def orders_in(workspace: str) -> Iterator[Order]:
    """What was ordered of each service of a workspace, by name; none that cannot be read, as while it is written."""
    for path in _paths_in(workspace, _ORDER):
        try:
            yield read_order(path)
        except (OSError, ParseError):
            continue


def _paths_in(workspace: str, ending: str) -> Iterator[str]:
    folder = _folder_of(workspace)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if name.endswith(ending):
            yield os.path.join(folder, name)


def _folder_of(workspace: str) -> str:
    return os.path.join(workspace, ".provision", "services")


def read_order(path: str) -> Order:
    """The order in the file at *path*. Raises OSError or ParseError."""
    with open(path, "rb") as file:
        return parse(Order, read_object(file.read(), max_bytes=MAX_FILE_BYTES, what="the order"), "order")


def read_status(path: str) -> Status:
    """The status in the file at *path*; empty when there is none that can be read."""
    try:
        with open(path, "rb") as file:
            return parse(Status, read_object(file.read(), max_bytes=MAX_FILE_BYTES), "status")
    except (OSError, ParseError):
        return Status()
