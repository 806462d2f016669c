"""What an instance is asked to do."""

from __future__ import annotations

import secrets as random_secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from provision_agent.contract.buckets import Buckets
from provision_agent.contract.parsing import ParseError, bounded, parse, to_json
from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_files import Output
from provision_agent.contract.plan_jobs import Job
from provision_agent.contract.plan_parts import SecretRule
from provision_agent.contract.steps import STEP_NAMES

from ..files.sources import UploadSource
from .signing import Sign

NO_BUCKETS = Buckets()
LONGEST_UNKNOWN_RUN_S = 24 * 3600.0
"""How long a run is watched whose limit nobody on this side knows."""


@dataclass(frozen=True)
class OutputsHere:
    """Where the outputs of a run go."""

    folder: Path
    max_bytes: int = 100 << 30
    """Of all that is in each of its folders, together."""


@dataclass(frozen=True)
class Known:
    """What this side itself knows of a run, from the profile that it was started with; no instance adds to it."""

    secrets: tuple[SecretRule, ...] = ()
    """The secrets that may be sent there; never their values."""
    services: Mapping[str, int] = bounded(factory=dict, low=0, high=65535)
    """The ports of its services, by name."""
    limit_s: float = bounded(LONGEST_UNKNOWN_RUN_S, low=0)
    """How long the whole run may take."""
    buckets: Buckets = NO_BUCKETS
    """Its buckets, and what it wants of them: addresses are signed for nothing else."""
    uploads: tuple[UploadSource, ...] = ()
    """The files of this machine that it gets."""
    outputs: tuple[Output, ...] = ()
    """What comes home."""
    jobs: tuple[str, ...] = ()
    """The names of its jobs."""
    jobs_limit_s: float | None = bounded(None, low=0)
    """How long all its jobs together may take; None: one of them has no limit."""
    has_lifetime: bool = False
    """Something on the instance ends it, by itself."""
    public: Mapping[str, str] = bounded(factory=dict, max_chars=8192)
    """Where its services are reached, by name; ``{host}`` stands for the instance's address."""

    @classmethod
    def of(cls, plan: Plan, buckets: Buckets = NO_BUCKETS, uploads: tuple[UploadSource, ...] = ()) -> Known:
        """What *plan*, which was made here, says, its profile of its *buckets*, and its *uploads* here."""
        public = {service.name: service.public for service in plan.services if service.public}
        return cls(
            plan.secrets,
            service_ports(plan),
            plan.limits.run_s,
            buckets.of_plan(plan),
            uploads,
            plan.outputs,
            tuple(job.name for job in plan.jobs),
            jobs_limit_s(plan.jobs),
            plan.lifetime is not None,
            public,
        )

    @property
    def kept_secrets(self) -> frozenset[str]:
        """Names of secrets that only buckets have a use for: they are sent to nobody."""
        return frozenset(rule.name for rule in self.buckets.secrets).difference(
            rule.name for rule in self.secrets
        )

    def to_json(self) -> dict[str, object]:
        """As JSON values, for the record of the run."""
        return dict(to_json(self))

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Known:
        """Read what `to_json` wrote. Raises ParseError when it is something else."""
        known = parse(cls, data, "known")
        if missing := {"secrets", "services", "limit_s"} - set(data):
            raise ParseError(f"`{min(missing)}` of `known` is missing")
        return known


@dataclass(frozen=True)
class ReadSoFar:
    """How far an earlier process had read the events of a run, and what followed from them."""

    read_to: int
    """Bytes of the mirror of its events."""
    state: Mapping[str, object]
    """As `RunState.to_json` gives it."""
    needed: tuple[str, ...] = ()
    sizes: Mapping[str, int] | None = None
    passed_seq: int = 0
    """Events up to this `seq` follow behind `read_to`, were told, and are in `state`: they are passed over."""


HEEDED = frozenset(
    (
        "job_started",
        "run_finished",
        "run_started",
        "secrets_needed",
        "sources_given",
        "sources_needed",
        "step_finished",
    )
)
"""Events of an agent that whoever watches its run has to read, and not only their fold."""


@dataclass(frozen=True)
class Order:
    """What the instance is asked to do. A *plan* of None joins the run that is there instead of starting one.

    Of *secrets*, only those that the plan names leave this machine. For a run that is joined they are looked up in
    *environment*, too: by the names that this side knows from *known* or from its own record of the run.
    """

    plan: Plan | None
    run_id: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False
    kill_holders: bool = False
    offline: bool | None = None
    """Nobody outside is asked for anything, from here or there; None: as the run was begun."""
    workspace: str | None = None
    logs_dir: Path = Path("logs")
    profile: str = ""
    asks_own_host_only: bool = False
    """Of the public addresses of its services none is asked that names another host than the instance's."""
    only_looks: bool = False
    """Start nothing: a run that is joined, and whose processes died, stays as it is."""
    resume: bool = False
    """The run may be there already, even finished: look for it before it is started."""
    owed_secrets: frozenset[str] = frozenset()
    """Names that the run was begun with and this process does not hold: asked for before an agent is started."""
    uploads: tuple[UploadSource, ...] = ()
    """The files of this machine that the plan's uploads are."""
    outputs: OutputsHere | None = None
    """Where its outputs go; None: nowhere."""
    known: Known | None = None
    """What is known of a run that is joined; None: what the record of the run says."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    buckets: Buckets = NO_BUCKETS
    """Where the buckets of its sources are."""
    so_far: ReadSoFar | None = None
    """What an earlier process had read of it."""
    sign: Sign | None = None
    """Signs addresses in buckets; None: nobody does here."""


def knows(plan: Plan) -> Callable[[str], bool]:
    """Whether a key is one of an item or a step of *plan*."""
    return frozenset(
        (
            *STEP_NAMES,
            *plan.apt,
            *(item.key for item in plan.uploads),
            *(item.key for item in plan.downloads),
            *(item.path for item in plan.repos),
            *(item.path for item in plan.files),
            *(item.name for item in plan.commands),
            *(item.name for item in plan.checks),
            *(item.name for item in plan.services),
            *(item.name for item in plan.jobs),
        )
    ).__contains__


def jobs_limit_s(jobs: Sequence[Job]) -> float | None:
    """How long *jobs* may take, one after the other; None: as long as they like."""
    timeouts = [job.timeout_s for job in jobs if job.timeout_s is not None]
    return sum(timeouts) if len(timeouts) == len(jobs) else None


def new_run_id() -> str:
    """``YYYYMMDDTHHMMSS-xxxxxx``, UTC."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + random_secrets.token_hex(3)


def agent_folders(plan: Plan | None, workspace: str | None) -> list[str]:
    """Where the agent may be stored: in the workspace, as the agent itself will resolve it; else in the home folder.

    Args:
        plan: What the run is to do; None: it is not known, as of a run that is joined.
        workspace: The folder on the instance, where that is known without a plan.

    Returns:
        Folders on the instance, the best one first; ``~`` is the home folder there.
    """
    if plan is None:
        return [f"{workspace}/.provision/agent"] if workspace else ["~/.provision/agent"]
    roots = [plan.workspace, *(("/workspace", "~/workspace") if plan.workspace_fallback else ())]
    return [f"{root}/.provision/agent" for root in roots]


def service_ports(plan: Plan) -> dict[str, int]:
    """The ports that the services of *plan* tell in `ready.url`, by name."""
    ports: dict[str, int] = {}
    for service in plan.services:
        if service.ready is not None:
            with suppress(ValueError):  # no port that there can be
                url = urlsplit(service.ready.url)
                ports[service.name] = url.port or (443 if url.scheme == "https" else 80)
    return ports
