"""What the halves ask each other and answer, as dataclasses: one JSON object each, `parse` is the door for both sides.

A request goes to the agent's stdin, an answer comes back as one line after `frames.ANSWER_MAGIC`. Fields are only
ever added; a reader ignores those that it does not know. What an instance is and has is in `findings`; `follow` is in
`frames`, which runs on older Pythons. Pure.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass
from typing import Any, Dict, Mapping, Optional, Tuple, Type, TypeVar

from .buckets import SignedSource, signed_field
from .cases import MAX_PARTICULARS
from .events import UnknownFormatError
from .failures import hint_of
from .lifetime_told import LifetimeTold
from .parsing import ParseError, bounded, parse, read_object, to_json
from .steps import LEVELS
from .version import FORMAT, RUN_ID_PATTERN, SUPPORTED_FORMATS

MAX_MESSAGE_BYTES = 64 << 20
MAX_PATH_CHARS = 4096
MAX_SECRETS = 200
MAX_VALUES = 5_000_000
"""Of one plan, or of all runs in an answer: a hundred thousand items, every default spelled out."""

T = TypeVar("T")
Json = Dict[str, object]


class RequestFailedError(ParseError):
    """The other side did not do what it was asked: `class_` is one of `FAILURES`, `hint` says what to do."""

    def __init__(self, class_: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.class_ = class_
        self.hint = hint


def _path(default: Any = MISSING) -> Any:
    return bounded(default, max_chars=MAX_PATH_CHARS)


def _plan(default: Any = MISSING) -> Any:
    return bounded(default, max_entries=MAX_VALUES, max_chars=MAX_MESSAGE_BYTES)


def _names() -> Any:
    return bounded((), max_entries=MAX_SECRETS, max_chars=256)


def _class() -> Any:
    return bounded("", max_chars=64, alias="class")


def _case() -> Any:
    return bounded(None, max_chars=64)


def _about() -> Any:
    return bounded(factory=dict, max_entries=MAX_PARTICULARS)


def _bytes(default: Any = None) -> Any:
    return bounded(default, low=0)


def _seconds(default: Any = MISSING) -> Any:
    return bounded(default, low=0, high=1e13)


def read_message(kind: Type[T], data: bytes) -> T:
    """The message *kind* in *data*; without any data the message of all defaults.

    Raises:
        ParseError: it is no such message.
    """
    return parse(kind, read_object(data or b"{}", max_bytes=MAX_MESSAGE_BYTES, what="the request"), "request")


def read_answer(kind: Type[T], data: Mapping[str, object]) -> T:
    """The answer *kind* in *data*.

    Raises:
        UnknownFormatError: another version speaks.
        RequestFailedError: it says that it could not be done. (A `StartAnswer` says so itself.)
        ParseError: it is no such answer.
    """
    if data.get("format") not in SUPPORTED_FORMATS:
        raise UnknownFormatError(data.get("format"))
    if kind is not StartAnswer and data.get("state") == "failed" and "class" in data:
        failed = parse(StartAnswer, data, "answer")
        raise RequestFailedError(failed.class_, failed.message, failed.hint)
    return parse(kind, data, "answer")


def joined(*parts: object) -> Json:
    """One JSON object with the fields of all *parts*: an answer may consist of several dataclasses."""
    return {name: value for part in parts for name, value in to_json(part).items()}


# -- start


@dataclass(frozen=True)
class StartRequest:
    """Begin, join or go on with a run; secrets are in memory and on stdin only."""

    run: str
    plan: Json = _plan()
    secrets: Dict[str, str] = bounded(factory=dict, max_entries=MAX_SECRETS)
    offered: Tuple[str, ...] = _names()
    """Secrets that are set on the other side and held back there until a host refuses to serve without them."""
    signed: Tuple[SignedSource, ...] = signed_field()
    """Addresses in buckets, signed there: in memory and on stdin only."""
    labels: Dict[str, str] = bounded(factory=dict, max_entries=100, max_chars=4096)
    started_unix: Optional[float] = _seconds(None)
    replace: bool = False
    kill_holders: bool = False
    offline: Optional[bool] = None
    """Ask no outside host: it is how this run works, and no part of what is wanted. None: as the run was begun."""
    format: int = FORMAT


@dataclass(frozen=True)
class RunFiles:
    """Where the files of a run lie on the instance."""

    core: str = _path()
    errors: str = _path()
    events: str = _path()


@dataclass(frozen=True)
class RunPlace:
    """What a watcher needs to know of a run."""

    run: str = bounded(pattern=RUN_ID_PATTERN)
    workspace: str = _path()
    files: RunFiles = bounded()
    started_unix: float = _seconds()
    """When it was accepted, by the clock of whoever started it."""
    remaining_s: Optional[float] = bounded(None, low=-1e13, high=1e13)
    """Until its deadline, by its own word."""
    plan_hash: str = bounded("", max_chars=64)


@dataclass(frozen=True)
class StartAnswer:
    """What became of a `StartRequest`: started, resumed, attached, or refused, usage, failed with the reason."""

    state: str = bounded(one_of=("started", "resumed", "attached", "refused", "usage", "failed"))
    run: str = bounded("", max_chars=64)
    class_: str = _class()
    message: str = ""
    hint: str = ""
    """What to do: whoever reads the answer makes the words of class, case and particulars."""
    case: Optional[str] = _case()
    about: Dict[str, str] = _about()
    retriable: bool = False
    differences: Tuple[str, ...] = bounded((), max_entries=10_000)
    format: int = FORMAT

    def __post_init__(self) -> None:
        object.__setattr__(self, "hint", hint_of(self.class_, self.case, self.about))

    @property
    def is_accepted(self) -> bool:
        """The run goes on: the rest of the answer is a `RunPlace`."""
        return self.state in ("started", "resumed", "attached")


@dataclass(frozen=True)
class SecretsRequest:
    """Values that a run which is going asked for by `secrets_needed`."""

    run: str = bounded(pattern=RUN_ID_PATTERN)
    workspace: str = _path()
    secrets: Dict[str, str] = bounded(factory=dict, max_entries=MAX_SECRETS)
    format: int = FORMAT


@dataclass(frozen=True)
class SecretsAnswer:
    """Whether the run waited for them, and has them now."""

    taken: bool = False
    format: int = FORMAT


# -- status, stop, prune, verify, facts


@dataclass(frozen=True)
class StatusRequest:
    """Of which runs: one, those of one workspace, or the current one of each."""

    run: Optional[str] = bounded(None, max_chars=64)
    workspace: Optional[str] = _path(None)
    all: bool = False
    with_plan: bool = False


@dataclass(frozen=True)
class RunFound(RunPlace):
    """A run as the instance has it; `status.RunState` reads the rest of the same object."""

    verdict: Optional[str] = bounded(None, max_chars=64)
    started: Optional[str] = bounded(None, max_chars=40)
    is_alive: bool = False
    is_current: bool = False
    labels: Dict[str, str] = bounded(factory=dict, max_entries=100, max_chars=4096)
    plan: Optional[Json] = _plan(None)
    lifetime: Optional[LifetimeTold] = None
    """When its instance is ended by itself."""


@dataclass(frozen=True)
class StatusAnswer:
    """Runs, each an object that `RunFound` and `status.RunState` read."""

    runs: Tuple[Json, ...] = bounded(max_entries=MAX_VALUES, max_chars=MAX_MESSAGE_BYTES)
    format: int = FORMAT


@dataclass(frozen=True)
class StopRequest:
    """Which run is to end; None: the current one."""

    run: Optional[str] = bounded(None, max_chars=64)
    workspace: Optional[str] = _path(None)


@dataclass(frozen=True)
class StopAnswer:
    """`stopped`: nothing of it is left. A run that had ended before comes with its verdict; without a `run` there is none."""

    stopped: bool
    run: Optional[str] = bounded(None, max_chars=64)
    verdict: Optional[str] = bounded(None, max_chars=64)
    format: int = FORMAT


@dataclass(frozen=True)
class PruneRequest:
    """Keep the newest `keep` runs of each workspace, and of the older ones those that are younger than `older_than_s`."""

    keep: int = bounded(low=0)  # required: nobody deletes by leaving something out
    older_than_s: Optional[float] = _seconds(None)
    workspace: Optional[str] = _path(None)
    only_tell: bool = False
    """Only tell what would be removed."""


@dataclass(frozen=True)
class PruneAnswer:
    """The ids of removed runs and the names of removed agent files."""

    removed: Tuple[str, ...] = bounded()
    agents: Tuple[str, ...] = ()
    format: int = FORMAT


@dataclass(frozen=True)
class VerifyRequest:
    """Run the checks of this plan, now. `offered`: names of secrets that are set where it is asked."""

    plan: Json = _plan()
    offered: Tuple[str, ...] = _names()


@dataclass(frozen=True)
class CheckFailed:
    """A check that does not hold, and why."""

    item: str = _path()
    level: str = bounded(one_of=LEVELS)
    class_: str = _class()
    message: str = ""
    hint: Optional[str] = None
    case: Optional[str] = _case()
    about: Dict[str, str] = _about()
    retriable: bool = False
    found: object = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hint", hint_of(self.class_, self.case, self.about))


@dataclass(frozen=True)
class CheckSkipped:
    """A check that is not wanted on this instance, and why."""

    item: str = _path()
    level: str = bounded(one_of=LEVELS)
    reason: str = bounded()


@dataclass(frozen=True)
class VerifyAnswer:
    """The names of the checks that hold, and the others."""

    passed: Tuple[str, ...] = bounded()
    failed: Tuple[CheckFailed, ...] = bounded()
    skipped: Tuple[CheckSkipped, ...] = ()
    format: int = FORMAT


@dataclass(frozen=True)
class FactsRequest:
    """Facts of the instance, and of the disk that `workspace` is on."""

    workspace: Optional[str] = _path(None)


@dataclass(frozen=True)
class FactsAnswer:
    """What the instance is, and its clock. `findings.Facts` reads what is relied on in `facts`."""

    facts: Json
    unix: float = _seconds()
    format: int = FORMAT


# -- sources, audit, capture


@dataclass(frozen=True)
class AuditRequest:
    """Compare the disk with a plan.

    `is_quick` believes the record of a file that was not touched since; `distrust` lets no record vouch for a wrong file.
    """

    plan: Json = _plan()
    secrets: Dict[str, str] = bounded(factory=dict, max_entries=MAX_SECRETS)
    offered: Tuple[str, ...] = _names()
    signed: Tuple[SignedSource, ...] = signed_field()
    is_quick: bool = False
    distrust: bool = False


@dataclass(frozen=True)
class AuditItem:
    """One item of the plan as it is on the disk: a download, a repo, a file, a package, or a member of an archive."""

    item: str = _path()
    kind: str = bounded(max_chars=64)
    level: str = bounded(one_of=LEVELS)
    state: str = bounded(max_chars=64)
    """ok, skipped, unknown, missing, partial, substituted, changed, or wrong_size, _hash, _content, _commit, _kind, _mode."""
    message: str = ""
    path: Optional[str] = _path(None)
    key: Optional[str] = bounded(None, max_chars=8192)
    """Of a download: which it is."""
    of: Optional[str] = bounded(None, max_chars=8192)
    """The key of the plan's download that it belongs to: a repository has many files."""
    size_bytes: Optional[int] = _bytes()
    sha256: Optional[str] = bounded(None, max_chars=64)
    commit: Optional[str] = bounded(None, max_chars=64)


@dataclass(frozen=True)
class AuditAnswer:
    """Every item, and the files that nobody named."""

    workspace: str = _path()
    items: Tuple[AuditItem, ...] = bounded()
    extra: Tuple[str, ...] = bounded()
    format: int = FORMAT


@dataclass(frozen=True)
class CaptureRequest:
    """What runs here? The answer is a `findings.CaptureAnswer`. `catalogue` is a server that knows models by their hash."""

    comfyui: Optional[str] = _path(None)
    catalogue: str = _path("")


def finite_remaining_s(value: Optional[float], limit_s: float) -> float:
    """How long to wait for a run that says *value* seconds remain, when this side's own limit is *limit_s*."""
    return limit_s if value is None or not math.isfinite(value) or value < 0 else min(value, limit_s)
