"""What the items of a plan are made of: bounded kinds of fields, limits, conditions, secrets.

`plan` has the items themselves. Pure: no I/O, shared by both halves.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import MISSING, dataclass, fields
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Tuple
from urllib.parse import unquote

from .parsing import ParseError, bounded
from .steps import LEVELS

MAX_CONTENT_CHARS = 16 << 20
"""Of a small file, of an argument, of a variable of an environment."""
MAX_WAIT_S = 1e9
MAX_SIZE_BYTES = 999 * 10**15


def seconds_field(default: Any) -> Any:
    return bounded(default, low=0, high=MAX_WAIT_S)


def bytes_field(default: Any = None) -> Any:
    return bounded(default, low=0, high=MAX_SIZE_BYTES)


def count_field(default: Any = None, low: int = 1) -> Any:
    return bounded(default, low=low)


def level_field() -> Any:
    return bounded("required", one_of=LEVELS)


def argv_field() -> Any:
    return bounded(max_chars=MAX_CONTENT_CHARS)


def environment_field() -> Any:
    return bounded(factory=dict, max_chars=MAX_CONTENT_CHARS)


class HubRepository(NamedTuple):
    """A whole repository of a model hub, or a `folder` of it (empty, or with a ``/`` at its end)."""

    repo: str
    revision: str
    folder: str


def repository_of(url: str) -> Optional[HubRepository]:
    """The repository that *url* means: ``hf://OWNER/REPO[@REV]``, perhaps with a folder; None for a file's URL."""
    found = re.fullmatch(r"hf://((?:datasets/|spaces/)?[^/@]+/[^/@]+)(?:@([^/]+))?(?:/|/(.+/))?", url)
    return HubRepository(found[1], unquote(found[2] or "main"), unquote(found[3] or "")) if found else None


def download_key(path: str, url: str) -> str:
    """The identity of a download: its final *path*, or its folder (a *path* that ends in ``/``) and its source.

    The source counts as a digest, since a URL may hold what opens a door.
    """
    return path if not path.endswith("/") else f"{path}#{hashlib.sha256(url.encode()).hexdigest()[:16]}"


class PlanFormatError(ParseError):
    """The JSON is not a plan that this version reads; the message names both versions or the wrong field."""


class Item(Protocol):
    """What every item of a plan has."""

    @property
    def level(self) -> str:
        """One of `LEVELS`."""

    @property
    def when(self) -> "Optional[When]":
        """Where it is wanted; None: everywhere."""

    @property
    def key(self) -> str:
        """Which item it is, among all of its step."""


class Named:
    """An item that its name identifies."""

    name: str

    @property
    def key(self) -> str:
        """Which item it is, among all of its step."""
        return self.name


class Placed:
    """An item that its path identifies."""

    path: str

    @property
    def key(self) -> str:
        """Which item it is, among all of its step."""
        return self.path


def title_of(packages: Tuple[str, ...]) -> str:
    """What a layer of *packages* is called in events: the names of the first, without its options and URLs."""
    found = (re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*(?!.*://)", line.partition("@")[0]) for line in packages)
    names = list(dict.fromkeys(re.sub(r"[-_.]+", "-", each[0]).lower() for each in found if each is not None))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class Stall:
    """A transfer that lands fewer than `below_bytes_per_s` over `for_s` is given up and tried elsewhere."""

    below_bytes_per_s: int = bytes_field(50 * 1024)
    for_s: float = seconds_field(30.0)


@dataclass(frozen=True)
class ItemLimits:
    """What one download may take. `file_s` None: max(15 min, size ÷ 1 MB/s), and never while bytes land."""

    file_s: Optional[float] = seconds_field(None)
    attempt_s: float = seconds_field(600.0)
    stall: Stall = Stall()
    connect_s: float = seconds_field(10.0)
    lookup_s: float = seconds_field(30.0)
    attempts: int = count_field(5)
    connections: Optional[int] = count_field()


@dataclass(frozen=True)
class HostLimits:
    """The most files and connections per file that one source host is asked for at once; None: no cap."""

    files: Optional[int] = count_field()
    connections: Optional[int] = count_field()


@dataclass(frozen=True)
class Limits:
    """What the run may take as a whole. None: the engine chooses."""

    run_s: float = seconds_field(3600.0)
    patience_s: float = seconds_field(60.0)
    files: Optional[int] = count_field()
    connections: Optional[int] = count_field()
    rate_bytes_per_s: Optional[int] = bytes_field()
    hosts: Dict[str, HostLimits] = bounded(factory=dict)
    cache: Optional[str] = None
    """A site's own cache, asked first for files whose sha256 is known; ``{host}`` and ``{path}`` stand for the source's."""


@dataclass(frozen=True)
class SecretRule:
    """The name of a secret and the https hosts that may see it; its value is never part of a plan."""

    name: str
    hosts: Tuple[str, ...] = ()
    aliases: Tuple[str, ...] = ()
    is_default: bool = False
    """No profile asked for it: its value stays with the user until a host refuses to serve without it."""


OPERATORS = (">=", ">", "<=", "<", "==", "!=")


@dataclass(frozen=True)
class HeaderSecret:
    """The secret whose value a header has."""

    secret: str


@dataclass(frozen=True)
class Substitute:
    """An explicitly different file, taken when every source of the wanted one says no."""

    url: str
    path: str


@dataclass(frozen=True)
class Basic:
    """A login by name and password; the password is the value of a secret."""

    user: str
    secret: str


@dataclass(frozen=True)
class Bound:
    """A condition such as ``>=24GiB``."""

    op: str = bounded(one_of=OPERATORS)
    value_bytes: int = bytes_field(MISSING)
    also: Tuple[Bound, ...] = bounded((), max_entries=16)
    """Others of the same fact that must hold, too."""


@dataclass(frozen=True)
class Compared:
    """A condition such as ``>=8.9``, of a version or a number. It is compared as far as it is written."""

    op: str = bounded(one_of=OPERATORS)
    value: str = bounded(pattern=r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")


@dataclass(frozen=True)
class When:
    """All that is given must hold, or the item is skipped."""

    gpu_memory: Optional[Bound] = None
    secret: Optional[str] = None
    disk_free: Optional[Bound] = None
    gpu_capability: Tuple[Compared, ...] = bounded((), max_entries=16)
    gpu_count: Tuple[Compared, ...] = bounded((), max_entries=16)
    gpu_name: Tuple[str, ...] = bounded((), max_entries=16, max_chars=256)
    python: Tuple[Compared, ...] = bounded((), max_entries=16)

    def told(self) -> List[str]:
        """Each condition as people write it."""
        texts: List[str] = []
        for fact in fields(self):
            value = getattr(self, fact.name)
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            texts += [f"{fact.name} {text}" for each in values for text in _texts_of(each)]
        return texts

    def text(self) -> str:
        """All conditions in one line."""
        return ", ".join(self.told())


@dataclass(frozen=True)
class AptPackages:
    """Packages of the system that are wanted where their condition holds."""

    packages: Tuple[str, ...]
    when: Optional[When] = None


def gib_text(size_bytes: int) -> str:
    """A size as conditions give it."""
    return f"{size_bytes / 2**30:.4g} GiB"


def _texts_of(condition: object) -> List[str]:
    if isinstance(condition, Bound):
        bounds = (condition, *condition.also)
        return [f"{each.op} {gib_text(each.value_bytes)}" for each in bounds]
    if isinstance(condition, Compared):
        return [f"{condition.op} {condition.value}"]
    return [str(condition)]
