"""What the API answers, as dataclasses: the code that answers makes them, and the OpenAPI document is made of them.

Fields are only ever added.
"""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import Annotated

from provision_agent.contract.events import JsonObject
from provision_agent.contract.steps import GROUPS
from pydantic import Field, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ...run.outcome import Gap, Outcome, Problem
from ..instances import STATES as INSTANCE_STATES
from ..scorecard import Scorecard
from ..store.rows import State, Summary

Items = dict[str, JsonObject]


class Described:
    """Marks JSON that is passed on as it was written, whichever release wrote it: the document describes it as *kind*."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(TypeAdapter(self._kind).core_schema)


@dataclass(frozen=True)
class Links:
    """Where to ask on."""

    status: str
    events: str
    log: str


@dataclass(frozen=True)
class Begun(Links):
    """A run that was begun, or found."""

    run: str


@dataclass(frozen=True, kw_only=True)
class Listed(Summary):
    """One run in a few numbers."""

    run: str
    joined: Annotated[
        str | None, Field(description="the run that the instance works on, when its plan was going already")
    ]
    host: str
    instance_id: str | None
    profile: str
    labels: dict[str, str]
    created_unix: float
    is_stopping: bool


@dataclass(frozen=True)
class Runs:
    """Runs, newest first."""

    runs: list[Listed]
    counts: Annotated[
        dict[str, int], Field(description="how many runs of each state there are, on whatever page")
    ]
    next: Annotated[str | None, Field(description="`before` of the next page; null when there is none")]


@dataclass(frozen=True, kw_only=True)
class _Status:
    """One run as it is now: what its events so far say."""

    format: int
    run: str
    joined: str | None
    host: str
    instance_id: str | None
    profile: str
    name: str
    plan_hash: str
    labels: dict[str, str]
    created_unix: float
    links: Links
    last_event_id: int
    seq: int
    collector_seq: int
    state: State
    broken: Annotated[str | None, Field(description="why the run's events cannot be told whole")]
    contact: str | None
    reconnects: int
    secrets_needed: list[str]
    started: str | None
    updated: str | None
    deadline_s: float | None
    seconds_left: float | None
    usable_after_s: float | None
    duration_s: float | None
    bytes_downloaded: int | None
    workspace: str
    facts: JsonObject
    steps: Items
    errors: Annotated[list[JsonObject], Described(list[Problem])]
    warnings: list[str]
    gaps: Annotated[list[JsonObject], Described(list[Gap])]
    verdict: str | None
    outcome: Annotated[JsonObject, Described(Outcome)] | None


Status = make_dataclass(
    "Status",
    [(group, Items) for group in dict.fromkeys(GROUPS.values())],
    bases=(_Status,),
    namespace={"__doc__": _Status.__doc__, "__module__": __name__},
    frozen=True,
    kw_only=True,
)
"""`_Status`, and the items of every group."""


@dataclass(frozen=True)
class Taken:
    """The secrets that were taken, by name."""

    run: str
    taken: list[str]


@dataclass(frozen=True)
class ServiceHealthTold:
    """A service that a run left; without a problem it runs, and answers as its profile says."""

    name: str
    state: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class InstanceTold:
    """How one instance is that is watched after its run."""

    instance: str
    host: str
    instance_id: str | None
    run: str
    profile: str
    labels: dict[str, str]
    state: Annotated[str, Field(json_schema_extra={"enum": list(INSTANCE_STATES)})]
    why: Annotated[list[str], Field(description="what is wrong with it")]
    since_unix: Annotated[float, Field(description="when it came into its state")]
    checked_unix: Annotated[float | None, Field(description="when it was asked last")]
    services: list[ServiceHealthTold]
    disk_free_bytes: int | None
    gpu_used_bytes: int | None


@dataclass(frozen=True)
class WatchedInstances:
    """The instances that are watched."""

    instances: list[InstanceTold]


@dataclass(frozen=True)
class Hosts:
    """Scorecards, the instance that ran last first."""

    hosts: list[Scorecard]


@dataclass(frozen=True)
class Trouble:
    """What went wrong with a request, and what to do."""

    class_: Annotated[str, Field(alias="class")]
    message: str
    hint: str


@dataclass(frozen=True)
class WithProblems(Trouble):
    """All of the problems of a profile, as ``file:line:column: message``, or of a body."""

    problems: list[str]


@dataclass(frozen=True)
class Error:
    """The answer to a request that cannot be carried out."""

    error: Trouble | WithProblems


@dataclass(frozen=True)
class Health:
    """The server answers."""

    status: str = "ok"
