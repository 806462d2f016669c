"""The fields of every event, by what it is about; `events` says which event has which.

Each body is a dataclass of fields with types and bounds. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple
from urllib.parse import urlsplit

from .buckets import MAX_ASKED, MAX_URL_CHARS
from .cases import MAX_PARTICULARS
from .failures import hint_of
from .parsing import bounded
from .steps import LEVELS

MAX_KEY_CHARS = 8192
MAX_SECONDS, MAX_BYTES_PER_S = 1e11, 1e15
AGENT_VERDICTS = ("complete", "incomplete", "failed", "timeout", "cancelled")
"""How the instance can say that a run ended; every other verdict is the collector's."""


def _field(**limits: Any) -> Any:
    """A field that its writer always writes; a reader does without, as it must with events of other versions."""
    return bounded(None, always=True, **limits)


def _extra(**limits: Any) -> Any:
    """A field that is written where it applies."""
    return bounded(None, **limits)


_SHORT: Dict[str, Any] = {"max_chars": 256}
_LINE: Dict[str, Any] = {"max_chars": MAX_KEY_CHARS}
_SECONDS: Dict[str, Any] = {"low": 0, "high": MAX_SECONDS}
_SPEED: Dict[str, Any] = {"low": 0, "high": MAX_BYTES_PER_S}
_COUNT: Dict[str, Any] = {"low": 0}


@dataclass(frozen=True)
class Body:
    """The fields of an event of an unknown name: none that we know."""


@dataclass(frozen=True)
class RunStarted(Body):
    plan_hash: Optional[str] = _field(**_SHORT)
    name: Optional[str] = _field(**_SHORT)
    deadline_s: Optional[float] = _field(**_SECONDS)
    resumed: Optional[bool] = _field()
    restarts: Optional[int] = _extra(**_COUNT)
    workspace: Optional[str] = _extra(**_LINE)
    pid: Optional[int] = _extra(**_COUNT)


@dataclass(frozen=True)
class FactsFound(Body):
    facts: Optional[Dict[str, object]] = _field()


@dataclass(frozen=True)
class PreflightPassed(Body):
    bytes_to_fetch: Optional[int] = _field(**_COUNT)
    unknown_sizes: Optional[int] = _extra(**_COUNT)
    disks: object = _field()


@dataclass(frozen=True)
class Failed(Body):
    """Why something failed: its class, what happened, what to do, whether the same again may help."""

    class_: Optional[str] = _field(alias="class", **_SHORT)
    message: Optional[str] = _field()
    hint: Optional[str] = _field()
    """Made here, of class, case and particulars, whatever its writer made of them."""
    retriable: Optional[bool] = _field()
    case: Optional[str] = _extra(**_SHORT)
    about: Optional[Dict[str, str]] = _extra(max_entries=MAX_PARTICULARS)

    def __post_init__(self) -> None:
        hint = hint_of(self.class_, self.case, self.about) if self.class_ else None
        object.__setattr__(self, "hint", hint)


@dataclass(frozen=True)
class PreflightFailed(Failed):
    level: Optional[str] = _extra(**_SHORT)
    item: Optional[str] = _extra(**_LINE)


@dataclass(frozen=True)
class Step(Body):
    step: str = bounded(**_SHORT)


@dataclass(frozen=True)
class StepFinished(Step):
    ok: Optional[int] = _field(**_COUNT)
    failed: Optional[int] = _field(**_COUNT)
    skipped: Optional[int] = _field(**_COUNT)
    duration_s: Optional[float] = _field(**_SECONDS)


@dataclass(frozen=True)
class StepFailed(Failed, Step):
    level: Optional[str] = _extra(**_SHORT)


@dataclass(frozen=True)
class Item(Body):
    """An event of one item: its final path or its name, and its level. A download's also carries its `key`."""

    item: str = bounded(**_LINE)
    level: Optional[str] = _field(one_of=LEVELS)


@dataclass(frozen=True)
class ItemFailed(Failed, Item):
    url: Optional[str] = _extra()
    found: object = _extra()
    min_count: Optional[int] = _extra(**_COUNT)
    limit_s: Optional[float] = _extra(**_SECONDS)


@dataclass(frozen=True)
class ItemRetried(Item):
    attempt: Optional[int] = _field(**_COUNT)
    wait_s: Optional[float] = _field(**_SECONDS)
    class_: Optional[str] = _field(alias="class", **_SHORT)


@dataclass(frozen=True)
class ItemSkipped(Item):
    reason: Optional[str] = _field()


@dataclass(frozen=True)
class ItemProgress(Item):
    message: Optional[str] = _field()


@dataclass(frozen=True)
class ItemFinished(Item):
    duration_s: Optional[float] = _field(**_SECONDS)


@dataclass(frozen=True)
class ItemFound(Item):
    url: Optional[str] = _field()


@dataclass(frozen=True)
class DownloadSized(Item):
    total_bytes: Optional[int] = _field(**_COUNT)
    resumed_bytes: Optional[int] = _extra(**_COUNT)


@dataclass(frozen=True)
class DownloadProgress(Item):
    bytes: Optional[int] = _field(**_COUNT)
    total_bytes: Optional[int] = _field(**_COUNT)
    bytes_per_s: Optional[float] = _field(**_SPEED)


@dataclass(frozen=True)
class DownloadStalled(Item):
    bytes_per_s: Optional[float] = _field(**_SPEED)
    for_s: Optional[float] = _field(**_SECONDS)


@dataclass(frozen=True)
class DownloadWaiting(Item):
    host: Optional[str] = _field(**_LINE)
    wait_s: Optional[float] = _field(**_SECONDS)
    reason: Optional[str] = _extra()


@dataclass(frozen=True)
class DownloadSwitched(Item):
    url: Optional[str] = _field()
    substitute: Optional[bool] = _field()


@dataclass(frozen=True)
class DownloadFinished(ItemFinished):
    bytes: Optional[int] = _field(**_COUNT)
    sha256: Optional[str] = _field(**_SHORT)
    copied: Optional[bool] = _extra()


@dataclass(frozen=True)
class UploadStarted(Item):
    files: Optional[int] = _field(**_COUNT)
    total_bytes: Optional[int] = _field(**_COUNT)


@dataclass(frozen=True)
class UploadWaiting(Item):
    reason: Optional[str] = _field()


@dataclass(frozen=True)
class UploadFinished(ItemFinished):
    files: Optional[int] = _field(**_COUNT)
    bytes: Optional[int] = _field(**_COUNT)
    sent_bytes: Optional[int] = _field(**_COUNT)
    """What had to be sent; the rest was there already."""


@dataclass(frozen=True)
class RepoFinished(ItemFinished):
    commit: Optional[str] = _field(**_SHORT)


@dataclass(frozen=True)
class CheckPassed(Item):
    found: object = _field()


@dataclass(frozen=True)
class CheckFailed(ItemFailed):
    found: object = _field()


@dataclass(frozen=True)
class ServiceStarted(Item):
    pid: Optional[int] = _field(**_COUNT)
    adopted: Optional[bool] = _extra()


@dataclass(frozen=True)
class FileWritten(Item):
    changed: Optional[bool] = _extra()
    """False: it held that already."""


@dataclass(frozen=True)
class RestartPending(Item):
    reason: Optional[str] = _field()
    prompts: Optional[int] = _extra(**_COUNT)
    """What it still has to do, as far as it says."""


@dataclass(frozen=True)
class ServiceRestarted(Item):
    reason: Optional[str] = _field()
    pid: Optional[int] = _extra(**_COUNT)


def _wanted_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_fit = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        is_fit = False
    return "" if is_fit else "a URL"


@dataclass(frozen=True)
class ServiceReady(Item):
    url: Optional[str] = _field(check=_wanted_address, **_LINE)


@dataclass(frozen=True)
class Warned(Body):
    message: str = bounded()


@dataclass(frozen=True)
class Unchanged(Body):
    message: str = bounded()
    packages: int = bounded(0, **_COUNT)
    package_files: int = bounded(0, **_COUNT)
    repositories: int = bounded(0, **_COUNT)
    files: int = bounded(0, **_COUNT)
    services: int = bounded(0, **_COUNT)


@dataclass(frozen=True)
class DeadlineAtRisk(Body):
    remaining_s: Optional[float] = _field(**_SECONDS)
    needed_s: Optional[float] = _field(**_SECONDS)
    timeout_s: Optional[float] = _extra(**_SECONDS)


@dataclass(frozen=True)
class SecretsNeeded(Body):
    names: Tuple[str, ...] = bounded(max_entries=256, **_SHORT)


@dataclass(frozen=True)
class SourcesNeeded(Body):
    urls: Tuple[str, ...] = bounded(max_entries=MAX_ASKED, max_chars=MAX_URL_CHARS)
    request: str = bounded(max_chars=64)


@dataclass(frozen=True)
class SourcesGiven(Body):
    count: Optional[int] = _field(**_COUNT)


@dataclass(frozen=True)
class SecretFound(ItemFailed):
    pass


@dataclass(frozen=True)
class RunUsable(Body):
    after_s: float = bounded(**_SECONDS)


@dataclass(frozen=True)
class RunFinished(Body):
    verdict: str = bounded(one_of=AGENT_VERDICTS)
    duration_s: Optional[float] = _field(**_SECONDS)
    sizes: Optional[Dict[str, int]] = _field(max_entries=16, **_COUNT)
    bytes_downloaded: Optional[int] = _extra(**_COUNT)
    errors_log: Optional[str] = _extra(**_LINE)


@dataclass(frozen=True)
class HostNamed(Body):
    host: Optional[str] = _field(**_LINE)


@dataclass(frozen=True)
class Connecting(HostNamed):
    waited_s: Optional[float] = _field(**_SECONDS)
    cause: Optional[str] = _field()
    gives_up_after_s: Optional[float] = _field(**_SECONDS)


@dataclass(frozen=True)
class ConnectionLost(Body):
    cause: Optional[str] = _field()
    retry_in_s: Optional[float] = _field(**_SECONDS)


@dataclass(frozen=True)
class AgentRestarted(Body):
    restarts: Optional[int] = _field(**_COUNT)


@dataclass(frozen=True)
class Gap(Body):
    file: Optional[str] = _field(**_LINE)
    bytes: Optional[int] = _field(**_COUNT)


@dataclass(frozen=True)
class LogNamed(Body):
    file: Optional[str] = _field(**_LINE)


@dataclass(frozen=True)
class MarkerFound(LogNamed):
    kind: Optional[str] = _field(**_SHORT)
    line: Optional[str] = _field()


@dataclass(frozen=True)
class OutcomeTold(Body):
    verdict: Optional[str] = _field(**_SHORT)
    exit_code: Optional[int] = _field(low=0, high=255)
    next: Optional[str] = _field(**_SHORT)
