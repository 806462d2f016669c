"""Compiled packages on their way into an environment, and requirement lines that would compile in vain."""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from typing import Iterable, List, Mapping, NamedTuple, Optional, Sequence

from ...contract.failures import Failure
from ...contract.findings import Facts
from ...contract.plan_packages import CompiledPackage
from ...downloads import Sources
from ...run.context import Context
from ..progress import Progress
from . import compiled, indexes
from .compiled import Build
from .installer import Installer
from .tags import Target
from .wheel_store import WheelStore
from .wheels import Wheels

_INCLUDE = re.compile(r"(\s*)(-r|--requirement|-c|--constraint)([\s=]+)(\S+)(.*)")


@dataclass(frozen=True)
class Surroundings:
    """The environment into which something compiled is to go."""

    tools: Installer
    context: Context
    facts: Facts
    store: Optional[WheelStore]
    """Brings wheels; None: the installer fetches them."""

    @property
    def access(self) -> Sources:
        """Who asks addresses."""
        return self.store.access if self.store is not None else Sources((), {})

    def build(self) -> Build:
        """What a wheel must fit here, now."""
        tools = self.tools
        return compiled.build_at(tools.venv.path, tools.python_version(), tools.installed(), self.facts)

    def hopeless(self, name: str) -> Optional[str]:
        """Why the distribution *name* would be compiled in vain; None where it is there, or nvcc is right."""
        installed = self.tools.installed()
        return (
            None
            if name in installed
            else compiled.hopeless(name, compiled.cuda_at(self.tools.venv.path, installed))
        )


def install(
    package: CompiledPackage, here: Surroundings, progress: Progress, held: Mapping[str, str], *, item: str
) -> None:
    """Install the wheel of *package* that fits, or compile it where that may be.

    Args:
        held: Versions by name that nothing may change.
        item: What it is called in events.

    Raises:
        Failure: `no_wheel` in its case when there is none, `network` and the like when that cannot be told, and
            whatever the installer says.
    """
    if here.tools.is_locked:
        if item not in here.tools.locked:
            raise Failure("not_found", f"{item} is not in the lock", case="no_wheel")
        here.tools.install([item], progress, item=item, level=package.level, constraints=held)
        return
    build = here.build()
    found = compiled.choose(package, build, here.access, here.context)
    if found.url is not None:
        progress.say(found.why)
        wanted = _fetched(found.url, here, progress, package.level)
        here.tools.install([wanted], progress, item=item, level=package.level, constraints=held)
        return
    if found.unreached is not None:
        raise found.unreached.saying(found.why)
    if not compiled.may_build(package, build):
        release = compiled.nvcc_version()
        not_built = (
            f"; it is not compiled, since nvcc here is {release or 'missing'}"
            if package.build == "if_nvcc"
            else ""
        )
        raise Failure("not_found", f"{found.why}{not_built}", case="no_wheel")
    progress.say(f"{found.why}: it is compiled with nvcc {build.cuda}")
    options = ["--no-build-isolation", package.name]  # its build looks for the torch that is installed
    here.tools.install(options, progress, item=item, level=package.level, constraints=held)


def _fetched(url: str, here: Surroundings, progress: Progress, level: str) -> str:
    """Where the wheel at *url* is on this disk; *url* itself where the installer is to fetch it."""
    if here.store is None or not url.startswith("http"):
        return url
    wheel = compiled.wheel_at(url)
    here.store.begin([wheel], level=level, logins={})
    fetched = here.store.wait([wheel], progress, batch_bytes=1)  # one is all
    if wheel.file_name in fetched.failures:
        raise fetched.failures[wheel.file_name]
    return fetched.paths[wheel.file_name]


# -- lines that would compile in vain


class LeftOut(NamedTuple):
    """A line of a requirements file that is not installed, and why."""

    number: int
    line: str
    reason: str


def refuse(lines: Sequence[str], here: Surroundings) -> None:
    """Do nothing if none of *lines*, a layer's, would start a build that cannot end well. Raises Failure."""
    for line in lines:
        reason = _reason_against(line, lines, here)
        if reason is not None:
            raise Failure("not_found", f"`{line}`: {reason}", case="would_compile")


def wheels_only(names: Iterable[str], here: Surroundings) -> List[str]:
    """The options that keep an installer from compiling those of *names* that would be compiled in vain."""
    risky = [name for name in names if name in compiled.BUILT_WITH_NVCC]
    return [f"--only-binary={name}" for name in risky if here.hopeless(name) is not None]


def _reason_against(line: str, others: Iterable[str], here: Surroundings) -> Optional[str]:
    """Why *line* would compile in vain; None when it would not, or an index has a wheel of it.

    Args:
        others: All lines that it stands among: they may name indexes.
    """
    name = compiled.compiled_name(line)
    reason = None if name is None else here.hopeless(name)
    if reason is None or (not compiled.is_source(line) and _may_have_wheel(line, others, here)):
        return None
    return reason if compiled.is_source(line) else f"{reason}; no index has a wheel of it for this instance"


def _may_have_wheel(line: str, others: Iterable[str], here: Surroundings) -> bool:
    settings = dict(indexes.configured(here.tools.venv.path))
    for other in others:
        option, _, value = re.sub(r"[=\s]+", " ", other.strip(), count=1).partition(" ")
        if option in ("--find-links", "-f"):
            return True
        if option in ("--index-url", "--extra-index-url", "-i"):
            settings["extra-index-url"] = f"{settings.get('extra-index-url', '')} {value}".strip()
    if settings.get("find-links"):
        return True
    until = time.monotonic() + here.context.bounded(compiled.ASK_S)
    asker = Wheels(here.access, settings, Target.of(here.tools.python_version()), until=until)
    return asker.has_wheel(line.partition(";")[0].strip())


def left_out(path: str, here: Surroundings) -> List[LeftOut]:
    """The lines of the requirements file at *path* that would compile in vain."""
    lines = [line.split(" #")[0].strip() for line in _lines(path)]
    told = [
        (number, line, _reason_against(line, lines, here))
        for number, line in enumerate(lines, 1)
        if line and not line.startswith("#")
    ]
    return [LeftOut(number, line, reason) for number, line, reason in told if reason is not None]


def without(path: str, lines: Sequence[LeftOut], folder: str) -> str:
    """A copy of the requirements file at *path* in *folder*, without *lines*; it includes the same files."""
    numbers = {each.number for each in lines}
    kept = []
    for number, line in enumerate(_lines(path), 1):
        include = _INCLUDE.fullmatch(line)
        if include is not None and "://" not in include[4]:
            place = os.path.join(os.path.dirname(os.path.abspath(path)), include[4])
            line = f"{include[1]}{include[2]}{include[3]}{place}{include[5]}"
        kept.append("" if number in numbers else line)
    name = f"requirements-{hashlib.sha256(path.encode()).hexdigest()[:12]}.txt"
    copy = os.path.join(folder, name)
    with open(copy, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in kept)
    return copy


def _lines(path: str) -> List[str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.read().splitlines()
