"""What an instance is, what it has, and what the sources of a plan say: the long answers of the agent, as dataclasses.

`messages.read_answer` reads them. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Tuple

from .buckets import SignedSource, signed_field
from .environment_told import EnvironmentTarget, EnvironmentTold
from .failures import Failure, hint_of
from .messages import (
    MAX_SECRETS,
    Json,
    _about,
    _bytes,
    _case,
    _names,
    _path,
    _plan,
    _seconds,
    read_answer,
)
from .parsing import bounded, parse
from .plan import Check
from .steps import LEVELS
from .version import FORMAT

# -- facts


_SOLD_GIB = (
    *(2, 3, 4, 5, 6, 8, 10, 11, 12, 16, 18, 20, 22, 24, 32, 40, 48, 64, 71, 80, 94, 96, 128, 141, 144, 180),
    *(192, 288),
)
"""Memory of NVIDIA's cards and of their slices, as they are sold."""


@dataclass(frozen=True)
class Gpu:
    """One card."""

    name: str = bounded("", max_chars=256)
    compute_capability: Optional[str] = bounded(None, max_chars=16)
    memory_bytes: Optional[int] = _bytes()

    @property
    def nominal_bytes(self) -> int:
        """The memory that it is sold with: drivers keep up to 7 % of it. 0: not known."""
        found = self.memory_bytes or 0
        sizes = (gib << 30 for gib in _SOLD_GIB)
        return next((size for size in sizes if 0.92 * size <= found <= size), found)


@dataclass(frozen=True)
class Disk:
    """A file system, by a path that is on it."""

    path: str = _path()
    free_bytes: int = _bytes(0)
    total_bytes: Optional[int] = _bytes()
    needed_bytes: int = _bytes(0)
    """What a run needs there, with the margin that its preflight asks for; in the answer to `sources` only."""


@dataclass(frozen=True)
class Interpreter:
    """A python3 on the instance."""

    path: str = _path()
    version: str = bounded("", max_chars=64)


@dataclass(frozen=True)
class Environment:
    """An environment, or an interpreter with packages, that is there already, and the version of its torch."""

    path: str = _path()
    python: str = _path("")
    torch: Optional[str] = bounded(None, max_chars=64)
    is_writable: bool = True
    """Packages can be added to it."""
    is_managed: bool = False
    """The system's own package manager claims it (PEP 668)."""


@dataclass(frozen=True)
class Listener:
    """A port that is served already; `process` None: it may not be looked into."""

    port: int = bounded(low=0, high=65535)
    process: Optional[str] = None


@dataclass(frozen=True)
class Facts:
    """What an instance is; what could not be found out is None or empty."""

    gpus: Tuple[Gpu, ...] = bounded((), max_entries=1024)
    driver: Optional[str] = bounded(None, max_chars=64)
    cuda: Optional[str] = bounded(None, max_chars=64)
    """The newest that the driver runs."""
    memory_bytes: Optional[int] = _bytes()
    disks: Tuple[Disk, ...] = bounded((), max_entries=1024)
    cpus: int = bounded(1, low=0)
    pythons: Tuple[Interpreter, ...] = bounded((), max_entries=1024)
    init: str = bounded("none", max_chars=64)
    user: Optional[str] = bounded(None, max_chars=256)
    is_root: bool = False
    hostname: Optional[str] = bounded(None, max_chars=256)
    venvs: Tuple[Environment, ...] = bounded((), max_entries=1024)
    listening: Tuple[Listener, ...] = ()
    git: Optional[str] = _path(None)
    uv: Optional[str] = _path(None)
    ffmpeg: Optional[str] = _path(None)


# -- sources


@dataclass(frozen=True)
class SourcesRequest:
    """Ask every source of a plan; the answer is a `findings.SourcesAnswer`.

    `is_instance` adds what the instance is and what is there of each item; `packages` what the package indexes have for it,
    or for `target`; `measure` the bytes per second that the sources give; `pin` what moving names stand for now.
    """

    plan: Json = _plan()
    secrets: Dict[str, str] = bounded(factory=dict, max_entries=MAX_SECRETS)
    offered: Tuple[str, ...] = _names()
    signed: Tuple[SignedSource, ...] = signed_field()
    is_instance: bool = False
    packages: bool = False
    measure: bool = False
    pin: bool = False
    target: Optional[EnvironmentTarget] = None
    """The machine that packages are chosen for, where it is not the one that is asked."""
    uv: str = _path("")
    """Where uv is on the machine that is asked, if that is known."""


@dataclass(frozen=True)
class SourceTold:
    """What one source said. `class_` is ``ok``, or the class of failure."""

    class_: str = bounded(max_chars=64, alias="class")
    url: str = ""
    message: str = ""
    hint: str = ""
    case: Optional[str] = _case()
    about: Dict[str, str] = _about()
    retriable: bool = False
    size_bytes: Optional[int] = _bytes()
    sha256: Optional[str] = bounded(None, max_chars=64)
    name: Optional[str] = _path(None)
    """The file's name by the server's word."""
    host: Optional[str] = bounded(None, max_chars=1024)
    files: Optional[int] = bounded(None, low=0)
    """Of a whole repository: how many are wanted of it."""
    pinned_url: Optional[str] = None
    """The same file at the commit that its branch or tag stands for now."""
    commit: Optional[str] = bounded(None, max_chars=64)
    """Of a git repository: what its ref stands for there."""
    seconds: Optional[float] = _seconds(None)
    """How long it took to say so."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hint", hint_of(self.class_, self.case, self.about))


@dataclass(frozen=True)
class ItemTold:
    """What the sources of one item said: its URL's, its mirrors', its substitute's."""

    path: str = _path()
    sources: Tuple[SourceTold, ...] = bounded()
    key: str = bounded("", max_chars=8192)
    """Of a download."""


@dataclass(frozen=True)
class SourcesAnswer:
    """What all sources said, in the plan's order; of an instance, the rest of the answer is a `Standing`."""

    downloads: Tuple[ItemTold, ...] = bounded()
    repos: Tuple[ItemTold, ...] = bounded()
    taken: Dict[str, Tuple[str, ...]] = bounded(factory=dict)
    """By a download's key, why its final name cannot be its own."""
    secrets_wanted: Tuple[str, ...] = bounded((), max_entries=256, max_chars=256)
    """Rules of the plan whose hosts refused somebody without a token."""
    rate_bytes_per_s: Optional[float] = _seconds(None)
    """That the sources give here; None where it was not measured."""
    environment: Optional[EnvironmentTold] = None
    """What the plan's packages are; None where it has none, or nobody asked."""
    format: int = FORMAT


@dataclass(frozen=True)
class Present:
    """What is at a download's path: there (as far as can be told without reading it), partial, other or absent."""

    state: str = bounded(one_of=("there", "partial", "other", "absent"))
    missing_bytes: int = bounded(low=0)
    size_bytes: Optional[int] = _bytes()
    sha256: Optional[str] = bounded(None, max_chars=64)


@dataclass(frozen=True)
class IndexTold:
    """What the package indexes said of one requirement. `class_` is ``ok``, or the class of failure."""

    title: str
    class_: str = bounded(max_chars=64, alias="class")
    url: Optional[str] = None
    file: Optional[str] = _path(None)
    size_bytes: Optional[int] = _bytes()
    message: str = ""
    hint: str = ""
    case: Optional[str] = _case()
    about: Dict[str, str] = _about()
    retriable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hint", hint_of(self.class_, self.case, self.about))

    @classmethod
    def refused(cls, title: str, url: Optional[str], failure: Failure) -> IndexTold:
        """That of *title* nothing can be had there, as *failure* says."""
        return cls(
            title=title,
            url=url,
            class_=failure.class_,
            message=failure.message,
            case=failure.case,
            about=failure.about,
            retriable=failure.retriable,
        )


@dataclass(frozen=True)
class PackageTold:
    """A requirement, and what would be `chosen` for it; None: nothing can be had, for sure if `is_certain`."""

    item: str
    level: str = bounded(one_of=LEVELS)
    chosen: Optional[str] = None
    why: str = ""
    """The choice suits this instance; empty where there was none to make."""
    asked: Tuple[IndexTold, ...] = ()
    """Each candidate until the chosen one."""
    is_certain: bool = False
    present: Optional[str] = bounded(None, max_chars=64)
    """Of torch: the version that is there already, which may do."""


@dataclass(frozen=True)
class SkippedTold:
    """An item that is not wanted on this instance, by its place in the plan's list of its step, and why."""

    step: str = bounded(max_chars=64)
    number: int = bounded(low=0)
    key: str = bounded(max_chars=8192)
    item: str = _path()
    level: str = bounded(one_of=LEVELS)
    reason: str = bounded()


@dataclass(frozen=True)
class ClashTold:
    """Items that are all wanted on this instance although there can be one only."""

    step: str = bounded(max_chars=64)
    numbers: Tuple[int, ...] = bounded()
    key: str = bounded(max_chars=8192)
    item: str = _path()
    level: str = bounded(one_of=LEVELS)
    message: str = bounded()


@dataclass(frozen=True)
class Standing:
    """The instance as it stands, and what of the plan it has."""

    workspace: str = _path()
    can_write: bool = bounded()
    facts: Json = bounded()
    """`Facts` reads what is relied on."""
    unix: float = _seconds()
    present: Tuple[Present, ...] = bounded()
    """In the order of the plan's downloads, as `unmet`: why the item is not wanted."""
    unmet: Tuple[Optional[str], ...] = bounded()
    commits: Tuple[str, ...] = bounded()
    """What is checked out, in the order of the plan's repos; empty where nothing is."""
    disks: Tuple[Disk, ...] = bounded()
    installed: Dict[str, str] = bounded(factory=dict)
    """Version by name of what the plan's environment holds; empty where there is none."""
    packages: Tuple[PackageTold, ...] = ()
    """In the order of the layers; empty where the indexes were not asked."""
    compiled: Tuple[PackageTold, ...] = ()
    """Of the compiled packages of all layers, which wheel would be taken."""
    skipped: Tuple[SkippedTold, ...] = ()
    """Of every step, what is not wanted here."""
    clashes: Tuple[ClashTold, ...] = ()


def read_sources(data: Mapping[str, object]) -> "Tuple[SourcesAnswer, Optional[Standing]]":
    """The answer to `sources`, and where an instance was asked how it stands. Raises as `read_answer`."""
    answer = read_answer(SourcesAnswer, data)
    return answer, parse(Standing, data, "answer") if data.get("workspace") is not None else None


# -- capture


@dataclass(frozen=True)
class CapturedRepo:
    """A git checkout that is there; empty `url` or `commit`: it has none."""

    path: str = _path()
    url: str = ""
    commit: str = bounded("", max_chars=64)
    is_changed: bool = False
    has_requirements: bool = False
    has_submodules: bool = False


@dataclass(frozen=True)
class CapturedModel:
    """A model file that is there; `url` None: nobody knows where it came from."""

    path: str = _path()
    size_bytes: int = bounded(low=0)
    sha256: str = bounded(max_chars=64)
    url: Optional[str] = None
    mirrors: Tuple[str, ...] = ()
    level: str = bounded("required", one_of=LEVELS)


@dataclass(frozen=True)
class CaptureAnswer:
    """What runs here; with `comfyui` None, none was found at `looked_at`. `service` are the words of its process."""

    comfyui: Optional[str] = _path()
    looked_at: Tuple[str, ...] = ()
    workspace: str = _path("")
    repos: Tuple[CapturedRepo, ...] = ()
    loose: Tuple[str, ...] = ()
    """Custom nodes that are no checkout."""
    models: Tuple[CapturedModel, ...] = ()
    python: Optional[str] = _path(None)
    packages: Tuple[str, ...] = ()
    service: Optional[Tuple[str, ...]] = None
    apt: Tuple[str, ...] = bounded((), max_chars=256)
    """Packages of the system that somebody asked for: a plan, or a person since the container was made."""
    checks: Tuple[Check, ...] = ()
    """Of the newest plan that was run here."""
    format: int = FORMAT


# -- whoami


@dataclass(frozen=True)
class WhoamiRequest:
    """A token of the model hub, to be asked about on the machine of its owner."""

    token: str = bounded(max_chars=4096)


@dataclass(frozen=True)
class WhoamiAnswer:
    """What the hub says of a token."""

    state: str = bounded(one_of=("valid", "invalid", "other_kind", "unreachable"))
    """`other_kind`: it is good, and does not read gated or private repositories."""
    host: str = bounded("", max_chars=1024)
    message: str = ""
    """Why it is not valid, or not known."""
    owner: str = bounded("", max_chars=256)
    """The account."""
    kind: str = bounded("", max_chars=64)
    """read, write, fineGrained, or what the hub calls it."""
    name: str = bounded("", max_chars=256)
    """What its owner calls the token."""
    format: int = FORMAT
