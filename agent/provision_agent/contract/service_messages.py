"""What the halves ask each other about the services of an instance: which there are, and one of them anew or ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from .messages import MAX_PATH_CHARS, MAX_SECRETS
from .parsing import bounded
from .plan_parts import MAX_WAIT_S
from .version import FORMAT

MAX_SERVICES = 1000
MAX_LAST_LINES = 50


@dataclass(frozen=True)
class ServicesRequest:
    """List the services, or restart or stop the one called `name`; in one workspace, or in each that is known."""

    action: str = bounded(one_of=("list", "restart", "stop"))
    name: Optional[str] = bounded(None, max_chars=256)
    workspace: Optional[str] = bounded(None, max_chars=MAX_PATH_CHARS)
    secrets: Dict[str, str] = bounded(factory=dict, max_entries=MAX_SECRETS)
    """For a service that cannot be started again without them."""
    wait_s: float = bounded(60.0, low=0, high=MAX_WAIT_S)
    """So long a service that was started again is waited for until it answers."""


@dataclass(frozen=True)
class ServiceTold:
    """One service as it is now."""

    name: str = bounded(max_chars=256)
    workspace: str = bounded(max_chars=MAX_PATH_CHARS)
    state: str = bounded(max_chars=64)
    """running, adopted, restarting, secrets_needed, exited, gave_up, not_started, stopped, or ended: it is simply gone."""
    is_running: bool = False
    answers: Optional[bool] = None
    """Its ready URL answers as its profile wants; None where it has none, or does not run."""
    problem: str = ""
    """Why it does not answer, or what its supervisor said last."""
    url: Optional[str] = bounded(None, max_chars=MAX_PATH_CHARS)
    log: Optional[str] = bounded(None, max_chars=MAX_PATH_CHARS)
    """None: whoever started it writes it elsewhere."""
    pid: Optional[int] = bounded(None, low=0)
    up_s: Optional[float] = bounded(None, low=0, high=1e12)
    """Since when its program runs."""
    starts: int = bounded(0, low=0)
    exit_status: Optional[int] = None


@dataclass(frozen=True)
class ServicesAnswer:
    """The services that were asked for, and what came of the request."""

    services: Tuple[ServiceTold, ...] = bounded(max_entries=MAX_SERVICES)
    is_found: bool = True
    """False: there is none of that name; `services` are those that there are."""
    is_done: bool = True
    why_not: str = ""
    """Why it was not done, where it was not."""
    wants_secrets: Tuple[str, ...] = bounded((), max_entries=MAX_SECRETS, max_chars=256)
    """It cannot be started again without their values."""
    last_lines: Tuple[str, ...] = bounded((), max_entries=MAX_LAST_LINES)
    """Of its log, where it was started and has ended."""
    format: int = FORMAT
