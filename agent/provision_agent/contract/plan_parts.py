"""What the items of a plan are made of: bounded kinds of fields, limits, conditions, secrets.

`plan` has the items themselves. Pure: no I/O, shared by both halves.
"""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, dataclass
from typing import Any, Dict, Optional, Protocol, Tuple

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


def item_key(path: str, source: str) -> str:
    """The identity of an item that comes from somewhere: its final *path*, or its folder (a *path* that ends in ``/``) and its source.

    The source counts as a digest, since a URL may hold what opens a door.
    """
    return path if not path.endswith("/") else f"{path}#{hashlib.sha256(source.encode()).hexdigest()[:16]}"


class PlanFormatError(ParseError):
    """The JSON is not a plan that this version reads; the message names both versions or the wrong field."""


class Item(Protocol):
    """What every item of a plan has."""

    @property
    def level(self) -> str:
        """One of `LEVELS`."""

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


@dataclass(frozen=True)
class SecretRule:
    """The name of a secret and the https hosts that may see it; its value is never part of a plan."""

    name: str
    hosts: Tuple[str, ...] = ()
    aliases: Tuple[str, ...] = ()
    is_default: bool = False
    """No profile asked for it: its value stays with the user until a host refuses to serve without it."""


@dataclass(frozen=True)
class HeaderSecret:
    """The secret whose value a header has."""

    secret: str


@dataclass(frozen=True)
class Basic:
    """A login by name and password; the password is the value of a secret."""

    user: str
    secret: str


@dataclass(frozen=True)
class Bound:
    """A condition such as ``>=24GiB``. `op` is one of ``>= > <= < ==``."""

    op: str = bounded(one_of=(">=", ">", "<=", "<", "=="))
    value_bytes: int = bytes_field(MISSING)


@dataclass(frozen=True)
class When:
    """All that is given must hold, or the item is skipped."""

    gpu_memory: Optional[Bound] = None
    secret: Optional[str] = None
    disk_free: Optional[Bound] = None
