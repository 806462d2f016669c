"""What a run leaves in its folder for those who come later: its plan, its clock, its labels, and where its files lie."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Dict, Optional, Tuple

from ..contract.buckets import SignedSource, signed_field
from ..contract.messages import MAX_MESSAGE_BYTES, MAX_SECRETS, RunFiles, RunPlace
from ..contract.parsing import ParseError, bounded, parse, read_object, to_json
from ..contract.plan import Plan
from ..contract.plan_parts import MAX_WAIT_S
from ..contract.version import FORMAT
from .deadline import RunClock
from .state import write_atomically
from .workspace import Workspace


def _moment(default: object = ...) -> float:
    limits = {"low": -1e12, "high": 1e12}
    found: float = bounded(**limits) if default is ... else bounded(default, **limits)
    return found


@dataclass(frozen=True)
class RunRecord:
    """`run.json`, which every process of the run reads when it begins."""

    deadline_s: float = bounded(low=0, high=MAX_WAIT_S)
    started_unix: float = _moment()
    started_boot_s: float = _moment()
    boot_id: str = bounded(max_chars=64)
    accepted_unix: Optional[float] = _moment(None)
    """When it was accepted, by the clock of whoever started it."""
    stopped_after_s: Optional[float] = bounded(None, low=0, high=1e12)
    """When its first job began: since then the deadline does not count."""
    run: str = bounded("", max_chars=64)
    labels: Dict[str, str] = bounded(factory=dict, max_entries=256)
    kill_holders: bool = False
    offline: bool = False
    format: int = FORMAT

    @property
    def clock(self) -> RunClock:
        """The run's deadline."""
        return RunClock(
            self.deadline_s,
            started_unix=self.started_unix,
            started_boot_s=self.started_boot_s,
            boot=self.boot_id,
            stopped_after_s=self.stopped_after_s,
        )


@dataclass(frozen=True)
class Handed:
    """What keeper and agent are handed on their stdin: values by the names of secrets, in no file."""

    secrets: Dict[str, str] = bounded(max_entries=MAX_SECRETS)
    offered: Tuple[str, ...] = bounded((), max_entries=MAX_SECRETS, max_chars=256)
    """Names of those that are set where the run was ordered, and held back there until they are needed."""
    signed: Tuple[SignedSource, ...] = signed_field()
    """Addresses in buckets, signed where the keys are."""

    def to_line(self) -> bytes:
        """As the other process reads it."""
        return json.dumps(to_json(self)).encode() + b"\n"


def write_record(workspace: Workspace, record: RunRecord) -> None:
    """Keep *record*, atomically. Raises OSError."""
    write_atomically(workspace.run_file(record.run, "run.json"), json.dumps(to_json(record)).encode())


def read_record(workspace: Workspace, run_id: str) -> RunRecord:
    """The record of a run. Raises OSError or ParseError when it is not there or broken."""
    with open(workspace.run_file(run_id, "run.json"), "rb") as file:
        data = file.read(MAX_MESSAGE_BYTES + 1)
    return replace(parse(RunRecord, read_object(data, max_bytes=MAX_MESSAGE_BYTES), "run.json"), run=run_id)


def write_plan(workspace: Workspace, run_id: str, plan: Plan) -> None:
    """Keep *plan*, atomically. Raises OSError."""
    write_atomically(workspace.run_file(run_id, "plan.json"), json.dumps(plan.to_json(), indent=1).encode())


def read_plan(workspace: Workspace, run_id: str) -> Plan:
    """The plan of a run, its variables not yet filled in. Raises OSError or ParseError."""
    with open(workspace.run_file(run_id, "plan.json"), "rb") as file:
        data = file.read(MAX_MESSAGE_BYTES + 1)
    return Plan.from_json(read_object(data, max_bytes=MAX_MESSAGE_BYTES, what="the plan"))


def plan_of(workspace: Workspace, run_id: Optional[str]) -> Optional[Plan]:
    """The plan of a run; None when it left none that this version reads."""
    try:
        return None if run_id is None else read_plan(workspace, run_id)
    except (OSError, ParseError):
        return None


def place_of(workspace: Workspace, run_id: str, plan: Plan) -> RunPlace:
    """What a watcher needs to know of the run *run_id* of *plan*. Raises OSError or ParseError."""
    record = read_record(workspace, run_id)
    return RunPlace(
        run=run_id,
        workspace=workspace.root,
        files=RunFiles(
            core=workspace.run_file(run_id, "core.log"),
            errors=workspace.errors,
            events=workspace.run_file(run_id, "events.jsonl"),
        ),
        started_unix=int(record.accepted_unix or record.started_unix),
        remaining_s=None if record.stopped_after_s is not None else record.clock.remaining_s(),
        plan_hash=plan.hash,
    )
