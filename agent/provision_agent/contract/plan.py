"""The work order that the agent obeys: dataclasses, their JSON, their hash.

A plan is a profile with every default filled in. It holds no secret, so it may be stored and compared:
two plans with one hash are the same work. Pure: no I/O, shared by both halves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

from .parsing import ParseError, bounded, parse, to_json
from .plan_files import Output, Upload
from .plan_jobs import Hook, Job, Lifetime
from .plan_json import expand, map_strings, without_defaults
from .plan_packages import CompiledPackage, LockedEnvironment, PackageIndex
from .plan_parts import (
    MAX_CONTENT_CHARS,
    AptPackages,
    Basic,
    HeaderSecret,
    Item,
    ItemLimits,
    Limits,
    Named,
    Placed,
    PlanFormatError,
    SecretRule,
    Substitute,
    When,
    argv_field,
    bytes_field,
    count_field,
    download_key,
    environment_field,
    level_field,
    seconds_field,
    title_of,
)
from .plan_require import Require
from .redaction import public_url
from .source_kinds import means_many_files, own_limits
from .steps import LEVELS, STEP_NAMES
from .version import FORMAT, SUPPORTED_FORMATS

ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True)
class Download:
    """One file. A `path` that ends in ``/`` takes the server's name. `unpack` is no | auto | zip | tar.

    Where `url` means a whole repository, its files: those that match any of `include` (all, if that is empty) and
    none of `exclude`; `layout` is files | hub, which is that of the hub's own cache. `headers` and `basic` go to the https origin of `url` and nowhere else.
    """

    url: str
    path: str
    mirrors: Tuple[str, ...] = ()
    substitute: Optional[Substitute] = None
    size_bytes: Optional[int] = bytes_field()
    sha256: Optional[str] = bounded(None, pattern="[0-9a-fA-F]{64}")
    level: str = level_field()
    when: Optional[When] = None
    limits: ItemLimits = ItemLimits()
    unpack: str = bounded("no", one_of=("no", "auto", "zip", "tar"))
    include: Tuple[str, ...] = ()
    exclude: Tuple[str, ...] = ()
    layout: str = bounded("files", one_of=("files", "hub"))
    headers: Dict[str, HeaderSecret] = bounded(factory=dict, max_entries=32)
    basic: Optional[Basic] = None

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
    """Candidate versions in order of preference; `extras` are installed from the same index.

    `index` stands in place of torch's own, ``{accelerator}`` in it for the build; `find_links` are pages or folders of wheels.
    """

    versions: Tuple[str, ...] = ()
    accelerator: str = "auto"
    extras: Tuple[str, ...] = ()
    index: Optional[str] = None
    find_links: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One install step of the environment; exactly one of the three is given."""

    packages: Tuple[str, ...] = ()
    torch: Optional[Torch] = None
    requirements: Optional[str] = None
    when: Optional[When] = None
    compiled: Tuple[CompiledPackage, ...] = ()
    """Beside `packages`."""

    @property
    def title(self) -> str:
        """What it is called in events."""
        names = self.packages or tuple(package.name for package in self.compiled)
        return "torch" if self.torch is not None else self.requirements or title_of(names)


@dataclass(frozen=True)
class Python:
    """The virtual environment. `venv` is ``auto`` or a path; `timeout_s` is per connection, as pip means it.

    `versions` (``name==version``) are a lock's: no install may bring another version of these. With `locked` nothing but
    its wheels is installed. `wheels` is a folder in which fetched wheels stay for the next run; else they go with this one.
    """

    venv: str = "auto"
    installer: str = "auto"
    timeout_s: float = seconds_field(300.0)
    retries: int = count_field(3, low=0)
    layers: Tuple[Layer, ...] = ()
    remove: Tuple[str, ...] = ()
    protect: Tuple[str, ...] = ()
    versions: Tuple[str, ...] = ()
    indexes: Tuple[PackageIndex, ...] = ()
    wheels: Optional[str] = None
    locked: Optional[LockedEnvironment] = None


IF_PRESENT = "if_present"
"""Of `install`: requirements.txt, where the checkout has one."""


@dataclass(frozen=True)
class Repo(Placed):
    """A git checkout. `ref` is a branch, tag or commit; `install` a requirements file inside it, or `IF_PRESENT`."""

    url: str
    path: str
    mirrors: Tuple[str, ...] = ()
    ref: Optional[str] = None
    submodules: bool = False
    install: Optional[str] = None
    level: str = level_field()
    when: Optional[When] = None

    @property
    def requirements(self) -> Optional[str]:
        """The file that `install` means, whether it is there or not."""
        return "requirements.txt" if self.install == IF_PRESENT else self.install


@dataclass(frozen=True)
class File(Placed):
    """A small text file written as given; `mode` is octal digits."""

    path: str
    content: str = bounded(max_chars=MAX_CONTENT_CHARS)
    mode: str = bounded("0644", pattern="[0-7]{3,4}")
    level: str = level_field()
    when: Optional[When] = None


@dataclass(frozen=True)
class Command(Named):
    """One program run to its end: argv, no shell; ``python`` is the environment's."""

    name: str
    run: Tuple[str, ...] = argv_field()
    directory: str = "."
    environment: Dict[str, str] = environment_field()
    secrets: Tuple[str, ...] = ()
    timeout_s: float = seconds_field(600.0)
    level: str = level_field()
    when: Optional[When] = None


@dataclass(frozen=True)
class Check(Named):
    """What must be there: a `path`, files matching any of `glob`, importable modules, or what a service offers.

    Exactly one of the four. Of a ComfyUI, the `service`, classes of `nodes` and files of `models` are asked for.
    """

    name: str
    path: Optional[str] = None
    glob: Tuple[str, ...] = ()
    min_count: int = count_field(1, low=0)
    min_size_bytes: int = bytes_field(0)
    imports: Tuple[str, ...] = ()
    service: Optional[str] = None
    nodes: Tuple[str, ...] = ()
    models: Tuple[str, ...] = ()
    level: str = level_field()
    when: Optional[When] = None


@dataclass(frozen=True)
class Ready:
    """When a service counts as up: `successes` answers in a row from `url`, fitting `json`.

    It is given up when its log has not grown for `within_s`.
    """

    url: str
    within_s: float = seconds_field(600.0)
    successes: int = count_field(2)
    json: Dict[str, object] = bounded(factory=dict)


@dataclass(frozen=True)
class Service(Named):
    """A program that outlives the run. `restart` is never | on_failure, `start` usable | complete."""

    name: str
    run: Tuple[str, ...] = argv_field()
    directory: str = "."
    environment: Dict[str, str] = environment_field()
    ready: Optional[Ready] = None
    restart: str = bounded("never", one_of=("never", "on_failure"))
    start: str = bounded("usable", one_of=("usable", "complete"))
    secrets: Tuple[str, ...] = ()
    public: Optional[str] = None
    """Where others reach it: asked by whoever watches; ``{host}`` is the address that it uses."""
    log_failures: Tuple[str, ...] = ()
    """Regular expressions: a line of its log since its start that one of them finds is its failure."""
    on_start_failure: Optional[Hook] = None
    """Run once, when its first start failed, before the second."""
    level: str = level_field()
    when: Optional[When] = None


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
    steps: Tuple[str, ...] = STEP_NAMES
    strict: bool = False
    repair: bool = False
    limits: Limits = Limits()
    secrets: Tuple[SecretRule, ...] = ()
    apt: Tuple[Union[str, AptPackages], ...] = ()
    python: Optional[Python] = None
    repos: Tuple[Repo, ...] = ()
    uploads: Tuple[Upload, ...] = ()
    downloads: Tuple[Download, ...] = ()
    files: Tuple[File, ...] = ()
    commands: Tuple[Command, ...] = ()
    checks: Tuple[Check, ...] = ()
    services: Tuple[Service, ...] = ()
    jobs: Tuple[Job, ...] = ()
    outputs: Tuple[Output, ...] = ()
    outputs_keep_s: float = seconds_field(3600.0)
    """So long results that are not home yet hold a hook back."""
    on_failure: Optional[Hook] = None
    lifetime: Optional[Lifetime] = None
    require: Optional[Require] = None
    default_secrets: Optional[bool] = None
    """Whether rules for secrets that no profile asked for stand where its items' hosts have one; None: it was written
    by a version that knew none."""
    format: int = FORMAT

    def to_json(self) -> Dict[str, object]:
        """The plan as JSON values, every default spelled out."""
        found: Dict[str, object] = to_json(self)
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

    def chosen(self, step: str, items: Sequence[ItemT], levels: Tuple[str, ...] = LEVELS) -> List[ItemT]:
        """The items that a run of the plan does; none of a step that it leaves out.

        Args:
            items: All of *step* in the plan.
            levels: Those that are wanted now.
        """
        return [item for item in items if item.level in levels] if step in self.steps else []

    @property
    def system_packages(self) -> Tuple[str, ...]:
        """The names of `apt` that no condition holds back."""
        return tuple(entry for entry in self.apt if isinstance(entry, str))

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
        for entry in self.apt:
            keys.update(f"apt:{name}" for name in ((entry,) if isinstance(entry, str) else entry.packages))
        for repo in self.repos:
            keys.update(f"{repo.path}/{name}" for name in (repo.requirements, "__init__.py"))
        return _Known(
            frozenset(keys),
            tuple(key.partition("${")[0] for key in keys if "${" in key),
            frozenset(item.key.rpartition("#")[2] for item in self.downloads if means_many_files(item.url)),
        )

    def work(self) -> Dict[str, object]:
        """The plan as JSON values, without what says nothing of the work: equal for equal work, whichever version wrote it.

        That is its format, steps that have nothing to do, and the limits of hosts that are built into the tool.
        """
        said: Dict[str, object] = to_json(self._without_what_is_built_in())
        return said

    def _without_what_is_built_in(self) -> Plan:
        limits = dataclasses.replace(self.limits, hosts=own_limits(self.limits.hosts))
        steps = tuple(step for step in self.steps if getattr(self, step, None))
        return dataclasses.replace(self, limits=limits, steps=steps, default_secrets=None, format=FORMAT)

    def beside(self, other: Plan) -> Plan:
        """This plan as it is compared with *other*: without default rules for secrets if either is from before them."""
        if None not in (self.default_secrets, other.default_secrets):
            return self
        own = tuple(rule for rule in self.secrets if not rule.is_default)
        return dataclasses.replace(self, secrets=own)

    def is_same_work(self, other: Plan) -> bool:
        """Whether a run of *other* does all that this plan asks for, whichever versions wrote the two."""
        return self.beside(other).hash == other.beside(self).hash

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON of its `work`, hex; what stands at its default is left out.

        So a field that a later version adds changes the hash of no plan that does not use it.
        """
        told = without_defaults(self._without_what_is_built_in())
        canonical = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def bind(self, *, workspace: str, home: str, run_id: str) -> Plan:
        """The plan with ``${workspace}``, ``${home}`` and ``${run_id}`` filled in and ``$${`` unescaped.

        Raises:
            PlanFormatError: it names another variable.
        """
        values = {"workspace": workspace, "home": home, "run_id": run_id}
        bound = map_strings(self.to_json(), lambda text: expand(text, values))
        return Plan.from_json(dict(bound, workspace=workspace))
