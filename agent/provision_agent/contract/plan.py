"""The work order that the agent obeys: dataclasses, their JSON, their hash.

A plan is a profile with every default filled in. It holds no secret, so it may be stored and compared:
two plans with one hash are the same work. Pure: no I/O, shared by both halves.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Protocol, Tuple
from urllib.parse import unquote

from .parsing import ParseError, bounded, parse, to_json
from .redaction import public_url
from .steps import LEVELS, STEP_NAMES
from .version import FORMAT, SUPPORTED_FORMATS

STEPS = STEP_NAMES
BUILT_IN_VARIABLES = ("workspace", "home", "run_id")
"""Known on the instance only; they stay ``${…}`` in a plan until `bind`."""
MAX_CONTENT_CHARS = 16 << 20
"""Of a small file, of an argument, of a variable of an environment."""
MAX_WAIT_S = 1e9
MAX_SIZE_BYTES = 999 * 10**15


def _seconds(default: Any) -> Any:
    return bounded(default, low=0, high=MAX_WAIT_S)


def _bytes(default: Any = None) -> Any:
    limits = {"low": 0, "high": MAX_SIZE_BYTES}
    return bounded(**limits) if default is ... else bounded(default, **limits)


def _count(default: Any = None, low: int = 1) -> Any:
    return bounded(default, low=low)


def _level() -> Any:
    return bounded("required", one_of=LEVELS)


def _name() -> Any:
    return bounded(max_chars=4096)


def _argv() -> Any:
    return bounded(max_chars=MAX_CONTENT_CHARS)


def _environment() -> Any:
    return bounded(factory=dict, max_chars=MAX_CONTENT_CHARS)


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

    below_bytes_per_s: int = _bytes(50 * 1024)
    for_s: float = _seconds(30.0)


@dataclass(frozen=True)
class ItemLimits:
    """What one download may take. `file_s` None: max(15 min, size ÷ 1 MB/s), and never while bytes land."""

    file_s: Optional[float] = _seconds(None)
    attempt_s: float = _seconds(600.0)
    stall: Stall = Stall()
    connect_s: float = _seconds(10.0)
    lookup_s: float = _seconds(30.0)
    attempts: int = _count(5)
    connections: Optional[int] = _count()


@dataclass(frozen=True)
class HostLimits:
    """The most files and connections per file that one source host is asked for at once; None: no cap."""

    files: Optional[int] = _count()
    connections: Optional[int] = _count()


@dataclass(frozen=True)
class Limits:
    """What the run may take as a whole. None: the engine chooses."""

    run_s: float = _seconds(3600.0)
    files: Optional[int] = _count()
    connections: Optional[int] = _count()
    rate_bytes_per_s: Optional[int] = _bytes()
    hosts: Dict[str, HostLimits] = bounded(factory=dict)


@dataclass(frozen=True)
class SecretRule:
    """The name of a secret and the https hosts that may see it; its value is never part of a plan."""

    name: str
    hosts: Tuple[str, ...] = ()
    aliases: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Bound:
    """A condition such as ``>=24GiB``. `op` is one of ``>= > <= < ==``."""

    op: str = bounded(one_of=(">=", ">", "<=", "<", "=="))
    value_bytes: int = _bytes(...)


@dataclass(frozen=True)
class When:
    """All that is given must hold, or the item is skipped."""

    gpu_memory: Optional[Bound] = None
    secret: Optional[str] = None
    disk_free: Optional[Bound] = None


@dataclass(frozen=True)
class Substitute:
    """An explicitly different file, taken when every source of the wanted one says no."""

    url: str
    path: str


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


@dataclass(frozen=True)
class Download:
    """One file. A `path` that ends in ``/`` takes the server's name. `unpack` is no | auto | zip | tar.

    Where `url` means a whole repository, its files: those that match any of `include` (all, if that is empty) and
    none of `exclude`.
    """

    url: str
    path: str
    mirrors: Tuple[str, ...] = ()
    substitute: Optional[Substitute] = None
    size_bytes: Optional[int] = _bytes()
    sha256: Optional[str] = bounded(None, pattern="[0-9a-fA-F]{64}")
    level: str = _level()
    when: Optional[When] = None
    limits: ItemLimits = ItemLimits()
    unpack: str = bounded("no", one_of=("no", "auto", "zip", "tar"))
    include: Tuple[str, ...] = ()
    exclude: Tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Which item this is, among all that are fetched: see `download_key`."""
        return download_key(self.path, self.url)

    @property
    def label(self) -> str:
        """What people call it: its path; as long as no server has told a name, its folder and its public URL."""
        return f"{self.path} from {public_url(self.url)}" if self.path.endswith("/") else self.path


@dataclass(frozen=True)
class Torch:
    """Candidate versions in order of preference; `extras` are installed from the same index."""

    versions: Tuple[str, ...] = ()
    accelerator: str = "auto"
    extras: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One install step of the environment; exactly one of the three is given."""

    packages: Tuple[str, ...] = ()
    torch: Optional[Torch] = None
    requirements: Optional[str] = None


@dataclass(frozen=True)
class Python:
    """The virtual environment. `venv` is ``auto`` or a path; `timeout_s` is per connection, as pip means it.

    `versions` (``name==version``) are a lock's: no install may bring another version of these.
    """

    venv: str = "auto"
    installer: str = "auto"
    timeout_s: float = _seconds(300.0)
    retries: int = _count(3, low=0)
    layers: Tuple[Layer, ...] = ()
    remove: Tuple[str, ...] = ()
    protect: Tuple[str, ...] = ()
    versions: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Repo(Placed):
    """A git checkout. `ref` is a branch, tag or commit; `install` a requirements file inside it."""

    url: str
    path: str
    mirrors: Tuple[str, ...] = ()
    ref: Optional[str] = None
    submodules: bool = False
    install: Optional[str] = None
    level: str = _level()


@dataclass(frozen=True)
class File(Placed):
    """A small text file written as given; `mode` is octal digits."""

    path: str
    content: str = bounded(max_chars=MAX_CONTENT_CHARS)
    mode: str = bounded("0644", pattern="[0-7]{3,4}")
    level: str = _level()


@dataclass(frozen=True)
class Command(Named):
    """One program run to its end: argv, no shell; ``python`` is the environment's."""

    name: str
    run: Tuple[str, ...] = _argv()
    directory: str = "."
    environment: Dict[str, str] = _environment()
    secrets: Tuple[str, ...] = ()
    timeout_s: float = _seconds(600.0)
    level: str = _level()


@dataclass(frozen=True)
class Check(Named):
    """What must be there: a `path`, files matching any of `glob`, or importable modules; exactly one."""

    name: str
    path: Optional[str] = None
    glob: Tuple[str, ...] = ()
    min_count: int = _count(1, low=0)
    min_size_bytes: int = _bytes(0)
    imports: Tuple[str, ...] = ()
    level: str = _level()


@dataclass(frozen=True)
class Ready:
    """When a service counts as up: `successes` answers in a row from `url`, fitting `json`, within `within_s`."""

    url: str
    within_s: float = _seconds(600.0)
    successes: int = _count(2)
    json: Dict[str, object] = bounded(factory=dict)


@dataclass(frozen=True)
class Service(Named):
    """A program that outlives the run. `restart` is never | on_failure, `start` usable | complete."""

    name: str
    run: Tuple[str, ...] = _argv()
    directory: str = "."
    environment: Dict[str, str] = _environment()
    ready: Optional[Ready] = None
    restart: str = bounded("never", one_of=("never", "on_failure"))
    start: str = bounded("usable", one_of=("usable", "complete"))
    level: str = _level()


@dataclass(frozen=True)
class Hook:
    """A command that the keeper runs after `failed` or `timeout`, even if nobody listens any more."""

    run: Tuple[str, ...] = _argv()
    secrets: Tuple[str, ...] = ()
    timeout_s: float = _seconds(300.0)


class _Known(NamedTuple):
    """The items that a plan tells of."""

    keys: FrozenSet[str]
    prefixes: Tuple[str, ...]
    """What keys begin with whose variables only the instance knows."""
    repositories: FrozenSet[str]
    """The end of the keys of all files of a whole repository."""


@dataclass(frozen=True)
class Plan:
    """Everything that one run does. `workspace_fallback`: another folder may be taken if this one is unusable.

    `repair`: it mends what an audit found: it reads the bytes of packages, and sets aside what people changed in checkouts.
    """

    name: str
    workspace: str = "/workspace"
    workspace_fallback: bool = False
    steps: Tuple[str, ...] = STEPS
    strict: bool = False
    repair: bool = False
    limits: Limits = Limits()
    secrets: Tuple[SecretRule, ...] = ()
    apt: Tuple[str, ...] = ()
    python: Optional[Python] = None
    repos: Tuple[Repo, ...] = ()
    downloads: Tuple[Download, ...] = ()
    files: Tuple[File, ...] = ()
    commands: Tuple[Command, ...] = ()
    checks: Tuple[Check, ...] = ()
    services: Tuple[Service, ...] = ()
    on_failure: Optional[Hook] = None
    format: int = FORMAT

    def to_json(self) -> Dict[str, Any]:
        """The plan as JSON values, every default spelled out."""
        found: Dict[str, Any] = to_json(self)
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Plan:
        """Read a plan written by this version or the one before.

        Raises:
            PlanFormatError: another version, or a field of the wrong shape or out of its bounds.
        """
        found = data.get("format") if isinstance(data, Mapping) else FORMAT
        if isinstance(found, bool) or found not in SUPPORTED_FORMATS:
            raise PlanFormatError(
                f"this version reads plans of format {SUPPORTED_FORMATS[0]} and {FORMAT}, not {str(found)[:20]}"
            )
        try:
            return parse(cls, data, "plan")
        except ParseError as error:
            raise PlanFormatError(str(error)) from None

    def items(self, step: str) -> Tuple[Item, ...]:
        """The items of *step*, in the plan's order; of `apt` and `python`, which have none of their own, nothing."""
        found = getattr(self, step, ())
        return tuple(item for item in found if hasattr(item, "level")) if isinstance(found, tuple) else ()

    def knows(self, key: str) -> bool:
        """Whether an item with this key is one of the plan's, or one that its items bring with them."""
        known = self._known
        return (
            key in known.keys
            or key.startswith(known.prefixes)
            or key.rpartition("#")[2] in known.repositories
        )

    @cached_property
    def _known(self) -> _Known:
        keys = {item.key for step in STEP_NAMES for item in self.items(step)}
        keys.update(f"apt:{name}" for name in self.apt)
        for repo in self.repos:
            keys.update(f"{repo.path}/{name}" for name in (repo.install, "__init__.py"))
        return _Known(
            frozenset(keys),
            tuple(key.partition("${")[0] for key in keys if "${" in key),
            frozenset(
                item.key.rpartition("#")[2] for item in self.downloads if repository_of(item.url) is not None
            ),
        )

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON without its format, hex: equal for equal work, whichever version wrote it."""
        work = {name: value for name, value in self.to_json().items() if name != "format"}
        canonical = json.dumps(work, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def bind(self, *, workspace: str, home: str, run_id: str) -> Plan:
        """The plan with ``${workspace}``, ``${home}`` and ``${run_id}`` filled in and ``$${`` unescaped."""
        values = {"workspace": workspace, "home": home, "run_id": run_id}
        bound = _map_strings(self.to_json(), lambda text: _expand(text, values))
        return Plan.from_json(dict(bound, workspace=workspace))


def differences(old: object, new: object, path: str = "") -> List[str]:
    """Where two plans' JSON differ, one line each, as ``downloads[2].sha256: "a…" -> "b…"``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(old, list) and isinstance(new, list):
        longest = max(len(old), len(new))
        padded = [(values + [None] * longest)[:longest] for values in (old, new)]
        return [
            line for i in range(longest) for line in differences(padded[0][i], padded[1][i], f"{path}[{i}]")
        ]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


def _expand(text: str, values: Mapping[str, str]) -> str:
    out, rest = [], text
    while "${" in rest:
        before, _, after = rest.partition("${")
        if before.endswith("$"):
            out.append(before[:-1] + "${")
            rest = after
            continue
        name, closed, tail = after.partition("}")
        if not closed or name not in values:
            raise PlanFormatError(f"`${{{name}}}` is not one of {', '.join(values)}")
        out.append(before + values[name])
        rest = tail
    return "".join(out) + rest


def _map_strings(value: object, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_strings(item, change) for item in value]
    return value
