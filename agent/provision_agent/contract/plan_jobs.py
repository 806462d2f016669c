"""Parts of a plan that go on when the rest of it is done: jobs, and what ends the instance. Pure, shared by both halves."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from .plan_parts import Named, When, argv_field, environment_field, level_field, seconds_field

MAX_MIRRORED_JOBS = 12
"""The logs of so many jobs of one run are mirrored."""


@dataclass(frozen=True)
class Hook:
    """A command that is run when something failed or the instance is to end, by whoever still lives there."""

    run: Tuple[str, ...] = argv_field()
    secrets: Tuple[str, ...] = ()
    timeout_s: float = seconds_field(300.0)


@dataclass(frozen=True)
class Job(Named):
    """A long program, such as a training: begun when all else is there, and waited for by the run's verdict.

    `timeout_s` None: it may take as long as it likes; the run's own limit does not count while it goes on.
    """

    name: str
    run: Tuple[str, ...] = argv_field()
    directory: str = "."
    environment: Dict[str, str] = environment_field()
    secrets: Tuple[str, ...] = ()
    timeout_s: Optional[float] = seconds_field(None)
    level: str = level_field()
    when: Optional[When] = None


@dataclass(frozen=True)
class Lifetime:
    """When the instance is ended, whether anybody listens or not: after `idle_s` without work, and after `max_s` at most."""

    then: Hook
    idle_s: Optional[float] = seconds_field(None)
    max_s: Optional[float] = seconds_field(None)


def job_file(name: str) -> str:
    """What the files of the job *name* are called, without an ending: two jobs never share one."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:64]
    return f"job-{safe}" if safe == name else f"job-{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
