"""One run as the server remembers it, and the few numbers of it that a list shows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from provision_agent.contract.buckets import Buckets
from provision_agent.contract.parsing import parse
from provision_agent.contract.verdicts import NEXT, VERDICTS
from pydantic import ConfigDict, Field

from ...instance import Instance

DAY_S = 86_400
STATES = ("accepted", "connecting", "running", "usable", "broken")
"""Those of a run that is going; a finished one's is its verdict."""
ENDED = tuple(VERDICTS)

State = Annotated[str, Field(json_schema_extra={"enum": [*STATES, *ENDED]})]
Next = Annotated[str, Field(json_schema_extra={"enum": list(NEXT)})]


@dataclass(frozen=True)
class FileCount:
    """How far the downloads are."""

    settled: int
    all: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One run in a few numbers."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    state: State
    broken: Annotated[str | None, Field(description="why the run's events cannot be told whole")] = None
    verdict: str | None
    next: Next | None
    contact: Annotated[str | None, Field(description="`connected`, or what keeps the server from it")]
    files: FileCount
    bytes: int
    bytes_left: int
    bytes_per_s: float
    usable_after_s: float | None
    duration_s: float | None
    seconds_left: Annotated[float | None, Field(description="until the run's deadline")]
    errors: int


@dataclass
class Row:
    """One run."""

    run: str
    request_hash: str
    instance: Instance
    plan: Mapping[str, object]
    """As `Plan.from_json` reads it, and beside its keys `buckets`, if it has any; empty in lists."""
    profile: str
    labels: dict[str, str]
    secret_names: list[str]
    replaces: bool = False
    is_watched_after: bool = False
    """Its instance is watched when the run is over, until that is released."""
    created_unix: float = field(default_factory=time.time)
    joined: str | None = None
    """The run that the instance works on, once that is known: another one's id when its plan was going already."""
    stem: str | None = None
    """Where its mirrors lie, once that is known."""
    is_stopping: bool = False
    is_released: bool = False
    verdict: str | None = None
    summary: Summary | None = None
    """As it was when it was last kept; None where an earlier release kept what are no numbers."""
    state: str = "accepted"
    """One of `STATES`, or the verdict."""
    rid: int = 0
    """Its number in the database."""
    home: str | None = None
    """The server's folder below which its mirrors lie."""
    record: str | None = None
    """What this side remembers of it, for a server that takes it over: a `RunRecord` as JSON."""
    owner: str | None = None
    """The server process that watches it."""
    epoch: int = 0
    """How often it was taken up."""
    ended_unix: float | None = None

    @property
    def day(self) -> int:
        """The day on which it began, counted from 1970."""
        return int(self.created_unix // DAY_S)

    @property
    def buckets(self) -> Buckets:
        """Where the buckets of its plan are. Raises ParseError when that cannot be read."""
        return parse(Buckets, self.plan.get("buckets") or {}, "buckets")
