"""The shape of what the API answers, for the OpenAPI document. Fields are only ever added.

Tests hold real answers against it; the code that answers does not pass through here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from .view import ENDED, STATES

Next = Literal["none", "retry", "replace_instance", "fix_profile", "fix_credentials", "report_bug"]
Items = dict[str, dict[str, Any]]


class Links(BaseModel):
    """Where to ask on."""

    status: str
    events: str
    log: str


class Begun(Links):
    """A run that was begun, or found."""

    run: str


class FileCount(BaseModel):
    """How far the downloads are."""

    settled: int
    all: int


class Listed(BaseModel):
    """One run in a few numbers."""

    run: str
    joined: str | None = Field(
        description="the run that the instance works on, when its plan was going already"
    )
    host: str
    instance_id: str | None
    profile: str
    labels: dict[str, str]
    created_unix: float
    is_stopping: bool
    state: str = Field(json_schema_extra={"enum": [*STATES, *ENDED]})
    broken: str | None = Field(default=None, description="why the run's events cannot be told whole")
    verdict: str | None
    next: Next | None
    contact: str | None = Field(description="`connected`, or what keeps the server from it")
    files: FileCount
    bytes: int
    bytes_left: int
    bytes_per_s: float
    usable_after_s: float | None
    duration_s: float | None
    seconds_left: float | None = Field(description="until the run's deadline")
    errors: int


class Runs(BaseModel):
    """Runs, newest first."""

    runs: list[Listed]


class Problem(BaseModel):
    """What went wrong with one item, and what to do."""

    item: str | None
    level: str | None
    message: str | None
    hint: str | None
    retriable: bool | None


class Gap(BaseModel):
    """Bytes of a log that were gone before anyone read them."""

    file: str
    bytes: int | None


class Service(BaseModel):
    """A service on the instance."""

    name: str
    state: str
    url: str | None


class Downloads(BaseModel):
    """How many files."""

    ok: int
    failed: int
    skipped: int


class Checks(BaseModel):
    """How the checks went; the failed ones by name."""

    passed: int
    failed: list[str]


class Outcome(BaseModel):
    """How a run ended, and what to do next."""

    run: str
    host: str
    labels: dict[str, str]
    verdict: str = Field(json_schema_extra={"enum": list(ENDED)})
    exit_code: int
    next: Next
    duration_s: float | None
    usable_after_s: float | None
    bytes_downloaded: int | None
    downloads: Downloads
    checks: Checks
    warnings: list[str]
    services: list[Service]
    errors: list[Problem]
    gaps: list[Gap]
    reconnects: int
    logs: dict[str, str]


class Status(BaseModel):
    """One run as it is now: what its events so far say."""

    run: str
    joined: str | None
    host: str
    instance_id: str | None
    profile: str
    labels: dict[str, str]
    created_unix: float
    links: Links
    last_event_id: int
    state: str = Field(json_schema_extra={"enum": [*STATES, *ENDED]})
    broken: str | None = Field(default=None, description="why the run's events cannot be told whole")
    contact: str | None
    reconnects: int
    secrets_needed: list[str]
    started: str | None
    seconds_left: float | None
    usable_after_s: float | None
    steps: Items
    downloads: Items
    repos: Items
    packages: Items
    files: Items
    commands: Items
    checks: Items
    services: Items
    errors: list[Problem]
    warnings: list[str]
    gaps: list[Gap]
    outcome: Outcome | None


class Taken(BaseModel):
    """The secrets that were taken, by name."""

    run: str
    taken: list[str]


class Source(BaseModel):
    """What came from one host."""

    bytes: int
    bytes_per_s: int | None


class Scorecard(BaseModel):
    """What the runs of one instance say about the machine."""

    instance: str
    host: str
    runs: int
    verdicts: dict[str, int]
    usable_after_s: float | None = Field(description="the median")
    sources: dict[str, Source]
    stalls: int
    reconnects: int
    last: str


class Hosts(BaseModel):
    """Scorecards, the instance that ran last first."""

    hosts: list[Scorecard]
