"""What every step is handed: where it works, whom it tells, when it must stop."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Callable, Dict, FrozenSet, Mapping, Protocol, Tuple

from ..contract.plan_parts import SecretRule
from .outages import Outages
from .state import StateFile

SHORTEST_WAIT_S = 0.1
"""What a wait is given even after the deadline: enough to see that something is there already."""


class Report(Protocol):
    """Write one event; the journal makes the log lines from it. Thread-safe, returns when it is on disk."""

    def __call__(self, event: str, **fields: object) -> None: ...


@dataclass(frozen=True)
class Context:
    """One run's surroundings. Everything in it is safe to use from any thread."""

    workspace: str
    run_id: str
    run_directory: str
    """`.provision/runs/<run-id>`; the only place for a step's own files besides `.provision/state.json`."""
    report: Report
    state: StateFile
    cancelled: threading.Event
    """Set when the run ends early (deadline, stop, strict failure): return soon, leave what resumes."""
    remaining_s: Callable[[], float]
    """Seconds until the run's deadline; no wait of a step may be longer."""
    output: Callable[[str], None]
    """A line of a child program's own output, for `agent.log`."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Values by name. They go to exact https hosts and into named children's environments, nowhere else."""
    rules: Tuple[SecretRule, ...] = ()
    """Which hosts may see which secret."""
    redact: Callable[[str], str] = field(default=lambda text: text, repr=False)
    """A text without what may not be shown. Whoever cuts or quotes a text asks first: a half is not recognised later."""
    offered: FrozenSet[str] = frozenset()
    """Names of secrets that are set where the run was ordered, and whose values are held back there."""
    outages: Outages = field(default_factory=Outages)
    """Which servers cannot be reached now: all steps share their waits."""
    said: Dict[str, object] = field(default_factory=dict, repr=False)
    """Warnings that are given once in a run."""
    is_offline: bool = False
    """No outside host is asked for anything: what is on the disk has to do."""
    ask_for: Callable[[str], None] = lambda url: None
    """Ask whoever signs for a new address of a URL, until `give_up` of the same."""
    give_up: Callable[[str], None] = lambda url: None
    kill_holders: bool = False
    """The user asked for it: end the processes that keep a folder from being deleted, instead of naming them only."""

    def is_set(self, secret: str) -> bool:
        """Whether a value of *secret* is there, or can be had."""
        return secret in self.secrets or secret in self.offered

    def bounded(self, limit_s: float) -> float:
        """How long a step may wait: *limit_s*, or until the run's deadline if that is earlier; always a moment."""
        return max(SHORTEST_WAIT_S, min(limit_s, self.remaining_s()))

    def warn_once(self, message: str) -> None:
        """Report the warning *message*, unless that was done."""
        mine = object()
        if self.said.setdefault(message, mine) is mine:
            self.report("warning", message=message)

    def wait(self, wait_s: float) -> bool:
        """Wait for *wait_s*, or until the run ends; True when it has."""
        return self.cancelled.wait(min(wait_s, max(0.0, self.remaining_s()))) or self.is_over()

    def is_over(self) -> bool:
        """True once the run ends, whatever ends it."""
        return self.cancelled.is_set() or self.remaining_s() <= 0
