"""What the end of an instance depends on, in files of its own that outlive runs, agents and reboots.

`order.json` says what is wanted and is written by whoever begins a run; `state.json` is what was measured, and has
one writer; `extended.jsonl` has a line for each time that a user put the end off.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import List, Optional, Tuple

from ..contract.parsing import ParseError, bounded, parse, read_object, to_json
from ..contract.plan import Service
from ..contract.plan_files import Output
from ..contract.plan_jobs import Hook, Lifetime
from ..contract.plan_parts import MAX_WAIT_S
from ..run.state import write_atomically
from ..services.files import ServiceFiles
from .uptime import Moment

NAME = "lifetime"
MAX_FILE_BYTES = 64 << 20


def _measured() -> float:
    found: float = bounded(0.0, low=0, high=10 * MAX_WAIT_S)
    return found


@dataclass(frozen=True)
class LifetimeOrder:
    """What one run wants of the end of its instance; variables are filled in."""

    run: str = bounded(max_chars=64)
    lifetime: Optional[Lifetime] = None
    on_failure: Optional[Hook] = None
    """Only where it has to wait for results."""
    outputs: Tuple[Output, ...] = ()
    outputs_keep_s: float = bounded(3600.0, low=0, high=MAX_WAIT_S)
    services: Tuple[Service, ...] = ()
    """Those that may have prompts in a queue."""

    @property
    def hooks(self) -> Tuple[Hook, ...]:
        """All that may be run."""
        then = None if self.lifetime is None else self.lifetime.then
        return tuple(hook for hook in (then, self.on_failure) if hook is not None)


@dataclass(frozen=True)
class LifetimeState:
    """What was measured so far, at `moment`."""

    run: str = bounded("", max_chars=64)
    moment: Moment = Moment()
    elapsed_s: float = _measured()
    """Since the run began, without the time in which the instance was stopped."""
    idle_s: float = _measured()
    busy: str = bounded("", max_chars=1024)
    extensions: int = bounded(0, low=0)
    """So many lines of `extended.jsonl` are taken into account."""
    extended_s: float = _measured()
    not_idle_before_s: float = _measured()
    """Of `elapsed_s`: before that it is not ended for being idle."""
    is_told: bool = False
    """That its end is near was said."""
    reason: str = bounded("", max_chars=64)
    """Why a hook is due; empty: none is."""
    due_s: float = _measured()
    """For how long."""
    not_home: int = bounded(0, low=0)
    attempts: int = bounded(0, low=0)
    again_s: float = _measured()
    """Of `due_s`: when the hook is run again."""
    said: str = bounded("", max_chars=4096)
    tried: Tuple[str, ...] = bounded((), max_entries=16)
    """The keys of hooks that were run at least once."""
    done: Tuple[str, ...] = bounded((), max_entries=16)
    """The keys of hooks that have succeeded."""


class LifetimeFiles:
    """The files in `.provision/lifetime` of a *workspace*, a folder."""

    def __init__(self, workspace: str) -> None:
        self.workspace = workspace
        self.folder = os.path.join(workspace, ".provision", NAME)
        self.order_path = os.path.join(self.folder, "order.json")
        self.state_path = os.path.join(self.folder, "state.json")
        self.extended_path = os.path.join(self.folder, "extended.jsonl")
        self.lock_path = os.path.join(self.folder, "lock")
        self.supervised = ServiceFiles(NAME, self, folder=self.folder, stem="process")

    def order(self) -> Optional[LifetimeOrder]:
        """What is wanted; None when nobody ever wanted anything, or nothing that can be read."""
        try:
            with open(self.order_path, "rb") as file:
                data = read_object(file.read(), max_bytes=MAX_FILE_BYTES, what="the order")
            return parse(LifetimeOrder, data, "order")
        except (OSError, ParseError):
            return None

    def begin(self, order: LifetimeOrder) -> None:
        """Want *order* from now on; what was measured for another run is forgotten. Raises OSError."""
        if self.state().run != order.run:
            for path in (self.state_path, self.extended_path):
                if os.path.exists(path):
                    os.unlink(path)
        write_atomically(self.order_path, json.dumps(to_json(order)).encode())

    def state(self) -> LifetimeState:
        """What was measured last."""
        try:
            with open(self.state_path, "rb") as file:
                return parse(LifetimeState, read_object(file.read(), max_bytes=MAX_FILE_BYTES), "state")
        except (OSError, ParseError):
            return LifetimeState()

    def save(self, state: LifetimeState, *, sync: bool) -> None:
        """Keep *state*; a disk that takes nothing keeps nobody from measuring."""
        try:
            write_atomically(self.state_path, json.dumps(to_json(state)).encode(), sync=sync)
        except OSError as error:
            print(f"lifetime: cannot write `{self.state_path}`: {error.strerror}", flush=True)

    def extend(self, for_s: float) -> None:
        """Put the end off by *for_s* seconds. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.extended_path, flags, 0o600)
        try:
            os.write(descriptor, json.dumps({"for_s": for_s}).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def extensions(self) -> List[float]:
        """By how much each extension puts the end off, in seconds, oldest first."""
        try:
            with open(self.extended_path, "rb") as file:
                return [float(json.loads(line)["for_s"]) for line in file if line.endswith(b"\n")]
        except (OSError, ValueError, KeyError, TypeError):
            return []
