"""What of a plan is wanted on this instance: the one place that decides on `when:`.

A run, `plan --host`, `verify` and `audit` ask here, with the instance's facts. An item of any step has conditions as
soon as its dataclass has a `when`. What stands in a checkout that is skipped, and what is asked of something that is
skipped, is skipped with it.
"""

from __future__ import annotations

import fnmatch
import os
from dataclasses import replace
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..contract.findings import ClashTold, Facts, SkippedTold
from ..contract.parsing import parse
from ..contract.plan import Layer, Plan, Python
from ..contract.plan_parts import AptPackages, Bound, Compared, Item, When, gib_text
from ..contract.steps import LEVELS, STEPS
from ..host import facts as host_facts
from ..host.folders import nearest_folder
from .context import Context
from .interpreters import numbers, version_meant

WITH_A_PATH = ("repos", "uploads", "downloads", "files")
"""Steps whose items own a path: two of them may not be wanted at one."""
_FREE_DISK = "free_disk"
OF_PACKAGES = "critical"
"""The level of packages and layers, which have none of their own."""


class Placed(NamedTuple):
    """An item, and its place in the plan's list."""

    number: int
    item: Item


class Selection(NamedTuple):
    """What of a plan is done here. `plan` has no conditions any more."""

    plan: Plan
    skipped: Tuple[SkippedTold, ...]
    clashes: Tuple[ClashTold, ...]


def has_conditions(plan: Plan) -> bool:
    """Whether anything in *plan* depends on the instance."""
    layers = plan.python.layers if plan.python is not None else ()
    items = (item for step in STEPS for item in plan.items(step))
    return any(getattr(each, "when", None) is not None for each in (*plan.apt, *layers, *items))


def selected_here(plan: Plan, context: Context) -> Selection:
    """As `select`, with the facts of now; they are looked for where something depends on them only."""
    found = host_facts.find_facts(context.workspace) if has_conditions(plan) else {}
    return select(plan, found, context)


def select(plan: Plan, found: Mapping[str, object], context: Context) -> Selection:
    """What of *plan*, which is bound, is wanted here.

    Args:
        found: The instance's facts.
        context: Its secrets, its state, and its workspace for the free disk.
    """
    if not has_conditions(plan):
        return Selection(plan, (), ())
    return _Choice(plan, found, context).made()


def unconditional(plan: Plan) -> Plan:
    """What of *plan* every instance gets."""
    changed: Dict[str, object] = {
        step: tuple(item for item in plan.items(step) if getattr(item, "when", None) is None)
        for step in STEPS
        if step not in ("apt", "python")
    }
    if plan.python is not None:
        layers = tuple(layer for layer in plan.python.layers if layer.when is None)
        changed["python"] = replace(plan.python, layers=layers)
    return replace(plan, apt=plan.system_packages, **changed)  # type: ignore[arg-type]


def remember_free_disk(plan: Plan, context: Context) -> None:
    """From now on the disk counts for *plan* as free as it is, whatever its own files take of it."""
    if has_conditions(plan):
        context.state.put(_FREE_DISK, plan.hash, {"bytes": _free_at_first(plan, context)})


def _free_at_first(plan: Plan, context: Context) -> int:
    """The free disk that counts for *plan*: as a run of it found it first, or as it is if that is more."""
    told = (context.state.get(_FREE_DISK, plan.hash) or {}).get("bytes")
    return max(_free_bytes(context.workspace), told if isinstance(told, int) else 0)


def unmet(
    when: When,
    found: Mapping[str, object],
    context: Context,
    python: Optional[Python] = None,
    *,
    free_bytes: Optional[int] = None,
) -> Optional[str]:
    """Why *when* does not hold on this instance; None when it does.

    Args:
        found: The instance's facts.
        context: Its secrets, its state, and its workspace for the free disk.
        python: The environment whose Python counts; without one it is the instance's.
        free_bytes: The free disk that counts; None: as it is.
    """
    facts = parse(Facts, {key: found[key] for key in ("gpus", "pythons", "venvs") if found.get(key)}, "facts")
    if when.secret is not None and not context.is_set(when.secret):
        return f"the secret {when.secret} is not set"
    gpu_bytes = max((gpu.nominal_bytes for gpu in facts.gpus), default=0)
    if when.gpu_memory is not None and facts.gpus and not gpu_bytes:
        return (
            f"GPU memory is not known; wanted is {when.gpu_memory.op} {gib_text(when.gpu_memory.value_bytes)}"
        )
    memory = _unmet_size("GPU memory", gpu_bytes, when.gpu_memory)
    if free_bytes is None:
        free_bytes = _free_bytes(context.workspace) if when.disk_free is not None else 0
    size = memory or _unmet_size("free disk", free_bytes, when.disk_free)
    if size is not None:
        return size
    cards = [numbers(gpu.compute_capability or "") for gpu in facts.gpus]
    lowest = min(cards, default=())
    return (
        _unmet_number("the compute capability", lowest, when.gpu_capability, _no_capability(facts))
        or _unmet_number("the number of GPUs", (len(facts.gpus),), when.gpu_count)
        or _unmet_name([gpu.name for gpu in facts.gpus], when.gpu_name)
        or (
            _unmet_number("Python", numbers(version_meant(python, context, facts)), when.python)
            if when.python
            else None
        )
    )


# -- one condition


_HOLDS: Dict[str, Callable[[Tuple[int, ...], Tuple[int, ...]], bool]] = {
    ">=": lambda value, wanted: value >= wanted,
    ">": lambda value, wanted: value > wanted,
    "<=": lambda value, wanted: value <= wanted,
    "<": lambda value, wanted: value < wanted,
    "==": lambda value, wanted: value == wanted,
    "!=": lambda value, wanted: value != wanted,
}


def _unmet_size(name: str, value_bytes: int, bound: Optional[Bound]) -> Optional[str]:
    for each in (bound, *bound.also) if bound is not None else ():
        if not _HOLDS[each.op]((value_bytes,), (each.value_bytes,)):
            return f"{name} is {gib_text(value_bytes)}, not {each.op} {gib_text(each.value_bytes)}"
    return None


def _unmet_number(
    name: str, value: Tuple[int, ...], wanted: Sequence[Compared], unknown: str = ""
) -> Optional[str]:
    """Compared as far as the condition is written: ``<=3.11`` holds for 3.11.9, ``==8`` for 8.6."""
    for each in wanted:
        bound = numbers(each.value)
        if not value:
            return f"{unknown or f'{name} is not known'}; wanted is {each.op} {each.value}"
        padded = (value + (0,) * len(bound))[: len(bound)]
        if not _HOLDS[each.op](padded, bound):
            return f"{name} is {'.'.join(map(str, value))}, not {each.op} {each.value}"
    return None


def _no_capability(facts: Facts) -> str:
    return "" if facts.gpus else "there is no GPU"


def _unmet_name(names: Sequence[str], patterns: Sequence[str]) -> Optional[str]:
    for pattern in patterns:
        is_not, text = pattern.startswith("!="), pattern.lstrip("!=").strip()
        if any(_is_called(name, text) for name in names) is is_not:
            told = ", ".join(dict.fromkeys(names)) or "none"
            return f"the GPU is {told}, not {'other than ' if is_not else ''}`{text}`"
    return None


def _is_called(name: str, pattern: str) -> bool:
    """A part of the name, or a pattern for the whole of it; ``|`` between several; case does not count."""
    for each in pattern.casefold().split("|"):
        text = each.strip()
        is_glob = any(letter in text for letter in "*?[")
        if fnmatch.fnmatchcase(name.casefold(), text) if is_glob else text in name.casefold():
            return True
    return False


def _free_bytes(workspace: str) -> int:
    disk = os.statvfs(nearest_folder(workspace))
    return disk.f_bavail * disk.f_frsize


# -- the whole plan


class _Choice:
    """One selection in the making."""

    def __init__(self, plan: Plan, found: Mapping[str, object], context: Context) -> None:
        self._plan = plan
        self._found = found
        self._context = context
        self._free_bytes = _free_at_first(plan, context)
        self._skipped: List[SkippedTold] = []
        self._reasons: Dict[When, Optional[str]] = {}
        """Why a condition does not hold; asked once, since the free disk may change meanwhile."""
        self._folders: Dict[str, str] = {}
        """The checkouts that are not made, and why."""
        self._gone: Dict[str, str] = {}
        """The files that are not wanted, and why."""
        self._services: Dict[str, str] = {}
        """The services that are not started, and why."""

    def made(self) -> Selection:
        """What is wanted, what is not, and what cannot be."""
        kept: Dict[str, Sequence[Placed]] = {"repos": self._repos()}
        for step in STEPS:
            if step not in ("apt", "python", "repos", "checks"):
                kept[step] = self._items(step)
        kept["checks"] = self._items("checks")
        clashes = tuple(_clashes(kept))
        lost = {(each.step, each.key) for each in clashes}
        changed: Dict[str, object] = {
            step: tuple(_freed(item) for _, item in items if (step, item.key) not in lost)
            for step, items in kept.items()
        }
        changed.update(apt=tuple(self._apt()), python=self._python())
        plan = replace(self._plan, **changed)  # type: ignore[arg-type]
        order = list(STEPS)
        wanted = [each for each in self._skipped if each.step in plan.steps]
        wanted.sort(key=lambda each: order.index(each.step))
        return Selection(plan, tuple(wanted), tuple(each for each in clashes if each.step in plan.steps))

    def _repos(self) -> List[Placed]:
        items = self._plan.items("repos")
        reasons = [self._reason(item.when) for item in items]
        there = {self._path(_place(item)) for item, reason in zip(items, reasons) if reason is None}
        for item, reason in zip(items, reasons):
            path = self._path(_place(item))
            if reason is not None and path not in there:
                self._folders[path] = f"`{_place(item)}` is skipped: {reason}"
        return self._items("repos")

    def _items(self, step: str) -> List[Placed]:
        kept: List[Placed] = []
        skipped: List[Tuple[int, Item, str]] = []
        for number, item in enumerate(self._plan.items(step)):
            reason = self._reason(getattr(item, "when", None)) or self._follows(item, step)
            if reason is None:
                kept.append(Placed(number, item))
            else:
                skipped.append((number, item, reason))
        there = {item.key for _, item in kept}
        for number, item, reason in skipped:
            self._skip(step, number, item.key, str(getattr(item, "label", item.key)), item.level, reason)
            if item.key not in there and step in WITH_A_PATH:
                self._gone[self._path(_place(item))] = f"`{_place(item)}` is skipped: {reason}"
            elif item.key not in there and step == "services":
                self._services[item.key] = f"the service `{item.key}` is skipped: {reason}"
        return kept

    def _follows(self, item: Item, step: str) -> Optional[str]:
        """Why *item* goes with something that is skipped."""
        service = getattr(item, "service", None)
        if service in self._services:
            return self._services[service]
        if step == "checks" and self._gone.get(self._path(_place(item))) is not None:
            return self._gone[self._path(_place(item))]
        places = [self._path(place) for place in _places(item)]
        inside = [self._holder(place, is_own=step != "repos") for place in places]
        return inside[0] if inside and all(each is not None for each in inside) else None

    def _holder(self, path: str, *, is_own: bool = True) -> Optional[str]:
        """Why nothing is in *path*: it lies in a checkout that is not made."""
        for folder, reason in self._folders.items():
            if path.startswith(folder + os.sep) or (is_own and path == folder):
                return reason
        return None

    def _apt(self) -> Iterator[str]:
        for number, entry in enumerate(self._plan.apt):
            if not isinstance(entry, AptPackages):
                yield entry
                continue
            reason = self._reason(entry.when)
            if reason is None:
                yield from entry.packages
            else:
                for name in entry.packages:
                    self._skip("apt", number, f"apt:{name}", f"apt:{name}", OF_PACKAGES, reason)

    def _python(self) -> Optional[Python]:
        python = self._plan.python
        if python is None:
            return None
        layers: List[Layer] = []
        for number, layer in enumerate(python.layers):
            reason = self._reason(layer.when)
            if reason is None and layer.requirements is not None:
                reason = self._holder(self._path(layer.requirements))
            if reason is None:
                layers.append(replace(layer, when=None))
            else:
                title = layer.title
                self._skip("python", number, title, title, OF_PACKAGES, reason)
        return replace(python, layers=tuple(layers))

    def _reason(self, when: Optional[When]) -> Optional[str]:
        if when is None:
            return None
        if when not in self._reasons:
            self._reasons[when] = unmet(
                when, self._found, self._context, self._plan.python, free_bytes=self._free_bytes
            )
        return self._reasons[when]

    def _skip(self, step: str, number: int, key: str, label: str, level: str, reason: str) -> None:
        self._skipped.append(SkippedTold(step, number, key, label, level, reason))

    def _path(self, path: str) -> str:
        return os.path.normpath(os.path.join(self._context.workspace, path))


def _place(item: Item) -> str:
    return str(getattr(item, "path", None) or "")


def _places(item: Item) -> List[str]:
    """Where *item* is, or works, or looks."""
    named = [getattr(item, name, None) for name in ("path", "directory")]
    return [*(str(each) for each in named if each), *getattr(item, "glob", ())]


def _freed(item: Item) -> Item:
    """*item* without its condition, which holds."""
    return replace(item, when=None) if getattr(item, "when", None) is not None else item  # type: ignore[type-var]


def _clashes(kept: Mapping[str, Sequence[Placed]]) -> Iterator[ClashTold]:
    """Items that are wanted in one place, or by one name, and are not the same."""
    owners: Dict[Tuple[str, str], List[Tuple[str, Placed]]] = {}
    for step, items in kept.items():
        for placed in items:
            space = "path" if step in WITH_A_PATH else step
            owners.setdefault((space, placed.item.key.rstrip("/")), []).append((step, placed))
    for (_, key), found in owners.items():
        if len({repr(_freed(placed.item)) for _, placed in found}) < 2:
            continue
        items_ = [placed.item for _, placed in found]
        told = [f"`{item.when.text()}`" if item.when else "no condition" for item in items_]
        level = min((item.level for item in items_), key=LEVELS.index)
        message = (
            f"{len(found)} items that are not the same are wanted here as `{key}`: "
            f"{' and '.join(told)} hold on this instance"
        )
        for step in dict.fromkeys(step for step, _ in found):
            own = [placed for owner, placed in found if owner == step]
            numbers_ = tuple(placed.number for placed in own)
            item = own[0].item
            yield ClashTold(step, numbers_, item.key, str(getattr(item, "label", item.key)), level, message)
