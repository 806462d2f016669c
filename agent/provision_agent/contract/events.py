"""Every event: its name, who writes it, and its fields with types and bounds. The only schema of events.

`parse_event` is the door for every event that somebody else wrote. What does not fit is the writer's fault
(`ParseError`); unknown fields, and events of unknown names, pass as data within general bounds. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Tuple, Type

from .event_bodies import (
    AgentRestarted,
    Body,
    CheckFailed,
    CheckPassed,
    Connecting,
    ConnectionLost,
    DeadlineAtRisk,
    DownloadFinished,
    DownloadProgress,
    DownloadSized,
    DownloadStalled,
    DownloadSwitched,
    DownloadWaiting,
    FactsFound,
    FileWritten,
    Gap,
    HostNamed,
    Item,
    ItemFailed,
    ItemFinished,
    ItemFound,
    ItemProgress,
    ItemRetried,
    ItemSkipped,
    LogNamed,
    MarkerFound,
    OutcomeTold,
    PreflightFailed,
    PreflightPassed,
    RepoFinished,
    RestartPending,
    RunFinished,
    RunStarted,
    RunUsable,
    SecretFound,
    SecretsNeeded,
    ServiceReady,
    ServiceRestarted,
    ServiceStarted,
    SourcesGiven,
    SourcesNeeded,
    Step,
    StepFailed,
    StepFinished,
    Unchanged,
    UploadFinished,
    UploadStarted,
    UploadWaiting,
    Warned,
)
from .event_head import Head
from .event_types import AGENT, BOTH, COLLECTOR, EventType
from .instance_events import AccessLost, InstanceMeasured, ServiceReached
from .job_bodies import JobFailed, JobFinished, JobStarted, LifetimeEnding
from .output_bodies import OutputFailed, OutputsProgress, OutputsTold
from .parsing import NotJsonError, ParseError, check_json, kind_of, parse, read_json
from .steps import GROUPS
from .version import FORMAT, SUPPORTED_FORMATS

MAX_EVENT_BYTES = 256 * 1024
"""A longer line is no event; the agent's longest have a few kB."""
MAX_DEPTH = 12

JsonObject = Mapping[str, object]


_STATES: Dict[str, Optional[str]] = {
    "queued": "queued",
    "started": "running",
    "sized": None,
    "progress": "running",
    "stalled": "stalled",
    "retried": "retrying",
    "waiting": "waiting",
    "switched": "running",
    "finished": "done",
    "written": "done",
    "passed": "passed",
    "ready": "ready",
    "restarted": "running",
    "failed": "failed",
    "skipped": "skipped",
}

ITEM_STATES = frozenset(filter(None, _STATES.values()))
"""All that an item can be in."""

EVENTS: Dict[str, EventType] = {
    "run_started": EventType(RunStarted, AGENT, "The agent began, or went on with, the run."),
    "facts_found": EventType(
        FactsFound, AGENT, "What the instance is: cards, driver, memory, disks, pythons."
    ),
    "instance_measured": EventType(
        InstanceMeasured, AGENT, "What was measured of the instance, for `require` of the profile."
    ),
    "preflight_passed": EventType(PreflightPassed, AGENT, "Every source was asked, and there is room."),
    "preflight_failed": EventType(
        PreflightFailed, AGENT, "Something critical cannot be had, or does not fit."
    ),
    "step_started": EventType(Step, AGENT, "A step began."),
    "step_finished": EventType(
        StepFinished, AGENT, "A step ended, with the number of its items that are there, failed, skipped."
    ),
    "step_failed": EventType(StepFailed, AGENT, "A step, or the run, failed as a whole."),
    "warning": EventType(Warned, BOTH, "Something that people should know and that decides nothing."),
    "deadline_at_risk": EventType(
        DeadlineAtRisk, AGENT, "At this speed the downloads end after the deadline."
    ),
    "secrets_needed": EventType(SecretsNeeded, BOTH, "Secrets that are not set."),
    "sources_needed": EventType(
        SourcesNeeded,
        AGENT,
        "Signed addresses do not work any more: whoever has the buckets' keys signs new ones.",
    ),
    "sources_given": EventType(SourcesGiven, AGENT, "New signed addresses have come."),
    "secret_found": EventType(
        SecretFound, AGENT, "A secret's value stands in a file that the run left; the verdict stays."
    ),
    "unchanged": EventType(
        Unchanged,
        AGENT,
        "The environment is what it was when all of it was last looked at in full; what else was found as it was, and how.",
    ),
    "lifetime_ending": EventType(
        LifetimeEnding,
        AGENT,
        "The instance is ended soon, as the profile's `lifetime` says; `provision keep` extends it.",
    ),
    "run_usable": EventType(
        RunUsable, AGENT, "All that is critical is there and checked, and critical services are ready."
    ),
    "run_finished": EventType(RunFinished, AGENT, "The verdict. Nothing comes after it."),
    "run_accepted": EventType(HostNamed, COLLECTOR, "The order is taken; the instance is asked next."),
    "connecting": EventType(Connecting, COLLECTOR, "The instance does not answer yet, and why."),
    "connected": EventType(HostNamed, COLLECTOR, "The SSH session is there."),
    "connection_lost": EventType(ConnectionLost, COLLECTOR, "The connection broke; the run goes on."),
    "access_lost": EventType(
        AccessLost, COLLECTOR, "The key is refused by now: only the connection that is open goes on."
    ),
    "service_reached": EventType(
        ServiceReached,
        COLLECTOR,
        "Whether the service's `public` address answers from here; it decides nothing.",
    ),
    "agent_restarted": EventType(
        AgentRestarted, COLLECTOR, "Agent and keeper were gone and were started again."
    ),
    "gap": EventType(Gap, COLLECTOR, "Bytes of a log that cannot be had any more."),
    "outputs_progress": EventType(
        OutputsProgress, COLLECTOR, "Files of the run came home; at most two a second, later fewer."
    ),
    "output_failed": EventType(OutputFailed, COLLECTOR, "A file of the run cannot come home."),
    "outputs_finished": EventType(
        OutputsTold, COLLECTOR, "Nothing more comes home: the run has ended, or nobody watches it any more."
    ),
    "log_missing": EventType(LogNamed, COLLECTOR, "A log that is to be mirrored is not there yet."),
    "log_found": EventType(LogNamed, COLLECTOR, "A log that was missing is there."),
    "marker_found": EventType(MarkerFound, COLLECTOR, "A line that says how somebody else's script ended."),
    "outcome": EventType(OutcomeTold, COLLECTOR, "How it ended, as one object for programs. The last event."),
}
"""Every event that we know, by name."""


def _of_items(kind: str, **bodies: Tuple[Type[Body], str]) -> None:
    for what, (body, text) in bodies.items():
        EVENTS[f"{kind}_{what}"] = EventType(body, AGENT, text, GROUPS[kind], _STATES[what])


_of_items(
    "download",
    queued=(Item, "The file waits for its turn."),
    started=(ItemFound, "The file's first source is asked."),
    sized=(DownloadSized, "The file's size is known, or known to be unknown."),
    progress=(DownloadProgress, "Bytes landed; at most two a second for each file."),
    stalled=(DownloadStalled, "Too few bytes landed over the window of `limits.stall`."),
    retried=(ItemRetried, "The same source is tried again."),
    waiting=(DownloadWaiting, "A host, or another process, makes the file wait."),
    switched=(DownloadSwitched, "Another source is used from now on."),
    finished=(DownloadFinished, "The file is verified and has its final name."),
    failed=(ItemFailed, "The file cannot be had."),
    skipped=(ItemSkipped, "The file is there already, or is not wanted here."),
)
_of_items(
    "upload",
    started=(UploadStarted, "What is to be sent from here is known; the first of it is sent."),
    waiting=(UploadWaiting, "Nobody sends it now."),
    progress=(DownloadProgress, "Bytes landed; at most two a second for each item."),
    finished=(UploadFinished, "All its files are verified and have their final names."),
    failed=(ItemFailed, "A file of it cannot be had."),
    skipped=(ItemSkipped, "All its files are there already, or are not wanted here."),
)
_of_items(
    "repo",
    started=(ItemFound, "The repository is cloned or updated."),
    progress=(ItemProgress, "What git says."),
    retried=(ItemRetried, "The same repository is tried again."),
    finished=(RepoFinished, "The wanted commit is checked out."),
    failed=(ItemFailed, "The wanted commit cannot be had."),
    skipped=(ItemSkipped, "The wanted commit is there already, or the repository is not wanted here."),
)
_of_items(
    "package",
    started=(Item, "A package, layer or requirements file is being installed."),
    progress=(ItemProgress, "What the installer says."),
    retried=(ItemRetried, "The installation is tried again."),
    finished=(ItemFinished, "It is installed."),
    failed=(ItemFailed, "It cannot be installed."),
    skipped=(ItemSkipped, "It is there already, or is not wanted here."),
)
_of_items(
    "file",
    written=(FileWritten, "A file of the profile was written, or holds that already."),
    failed=(ItemFailed, "A file of the profile cannot be written."),
)
_of_items(
    "command",
    started=(Item, "A command of the profile began."),
    finished=(ItemFinished, "A command of the profile ended well."),
    failed=(ItemFailed, "A command of the profile failed."),
)
_of_items(
    "check",
    passed=(CheckPassed, "What the check looks for is there."),
    failed=(CheckFailed, "What the check looks for is not there."),
)
_of_items(
    "service",
    started=(ServiceStarted, "The service runs, or ran already."),
    progress=(ItemProgress, "What it waits for."),
    ready=(ServiceReady, "The service answers as its profile says."),
    restarted=(ServiceRestarted, "The service was started anew, so that it loads what has changed."),
    failed=(ItemFailed, "The service does not run or does not answer."),
    skipped=(ItemSkipped, "The service was not to be started."),
)
_of_items(
    "job",
    started=(JobStarted, "The job runs, or ran already when its agent was started again."),
    progress=(ItemProgress, "What the job waits for."),
    finished=(JobFinished, "The job ended with exit status 0."),
    failed=(JobFailed, "The job ended with another exit status, took too long, or was not begun."),
    skipped=(ItemSkipped, "The job is not wanted here."),
)


EVENTS["restart_pending"] = EventType(
    RestartPending,
    AGENT,
    "The service has not loaded what changed since its start; it is started anew when it has nothing to do.",
    GROUPS["service"],
)

for _kind in GROUPS:
    if not any(name.startswith(f"{_kind}_") for name in EVENTS):  # of a step that has no events of its own
        _of_items(
            _kind,
            started=(Item, f"A {_kind} of the profile began."),
            progress=(ItemProgress, f"How far a {_kind} of the profile is."),
            finished=(ItemFinished, f"A {_kind} of the profile is done."),
            failed=(ItemFailed, f"A {_kind} of the profile failed."),
            skipped=(ItemSkipped, f"A {_kind} of the profile is done already, or is not wanted here."),
        )
    elif f"{_kind}_skipped" not in EVENTS:
        _of_items(_kind, skipped=(ItemSkipped, f"A {_kind} of the profile is not wanted here."))


@dataclass(frozen=True)
class Event:
    """One event that fits. `data` is the JSON object as it came, `body` what its name says of it."""

    name: str
    seq: int
    ts: str
    run: str
    body: Body
    data: JsonObject

    @property
    def type(self) -> Optional[EventType]:
        """What its name means; None for an unknown one."""
        return EVENTS.get(self.name)

    @property
    def key(self) -> str:
        """The identity of its item, the same from the item's first event to its last."""
        return str(self.data.get("key") or self.data.get("item") or self.data.get("step") or "")

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of its run, where it carries any."""
        labels = self.data.get("labels")
        return labels if isinstance(labels, dict) else {}


class UnknownFormatError(ParseError):
    """The other side speaks a version that this one does not read."""

    def __init__(self, found: object) -> None:
        text = str(found) if isinstance(found, int) and not isinstance(found, bool) else kind_of(found)
        super().__init__(
            f"format {text}; this version of provision reads {SUPPORTED_FORMATS[0]} and {FORMAT}"
        )
        self.found = text


def read_event(line: bytes) -> Optional[Dict[str, object]]:
    """The JSON object in *line* of an events file; None for a torn line, which a killed agent leaves behind.

    Raises:
        ParseError: it is too long or nested too deep, holds a number that is none, or is JSON and no object.
    """
    try:
        value = read_json(line, max_bytes=MAX_EVENT_BYTES, what="a line")
    except NotJsonError:
        return None
    if not isinstance(value, dict):
        raise ParseError(f"a line is {kind_of(value)}, and an object belongs there")
    return value


def parse_event(data: JsonObject) -> Event:
    """The event in *data*, of either writer.

    Raises:
        UnknownFormatError: it was written by a version that this one does not read.
        ParseError: it is no event, or a field of it has another type or is out of its bounds.
    """
    check_json(data, "an event", max_depth=MAX_DEPTH)
    found = data.get("format")
    if isinstance(found, int) and not isinstance(found, bool) and found not in SUPPORTED_FORMATS:
        raise UnknownFormatError(found)
    head = parse(Head, data, str(data.get("event"))[:64])
    known = EVENTS.get(head.event)
    kind: Type[Body] = (
        known.body if known is not None else _UNKNOWN_STEP if head.event.startswith("step_") else Body
    )
    body = parse(kind, data, head.event)
    return Event(head.event, head.seq, head.ts, head.run, body, data)


_UNKNOWN_STEP = Step


def last_sequence(tail: bytes) -> Optional[int]:
    """The `seq` of the last whole event in *tail*, the end of an events file; None if there is none."""
    for line in reversed(tail.split(b"\n")):
        try:
            return int(json.loads(line)["seq"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


AGENT_EVENTS: Dict[str, Tuple[str, ...]] = {
    name: kind.always for name, kind in EVENTS.items() if kind.writer != COLLECTOR
}
"""The events of the agent, with the fields that each always has besides `format ts run seq event`."""

COLLECTOR_EVENTS: Dict[str, Tuple[str, ...]] = {
    name: kind.always for name, kind in EVENTS.items() if kind.writer != AGENT
}
"""The events of the collector, likewise."""

COLLECTOR_NAMES = frozenset(COLLECTOR_EVENTS) - frozenset(AGENT_EVENTS) | {"instance-gone", "instance_gone"}
"""Events that only the collector tells: from an instance they mean nothing."""
