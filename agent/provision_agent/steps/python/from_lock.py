"""A locked environment: its wheels are installed, each by its hash, and nothing else, whatever anybody asks for.

They are fetched by the engine where it may; what it cannot bring the installer fetches, from the same address and under
the same hash. No index is asked.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set

from ...contract.failures import Failure
from ...contract.findings import Facts
from ...contract.plan import Python, Torch
from ...contract.plan_packages import LockedEnvironment, LockedWheel
from ...contract.pylock import LockedFile, LockedPackage
from ...run.context import Context
from ...run.interpreters import numbers, version_meant
from ..progress import Progress
from . import builds, requirements
from .resolver import Order

if TYPE_CHECKING:
    from .installer import Installer
    from .locked_install import LockedInstalls


def misfit(python: Python, context: Context, facts: Facts) -> Optional[Failure]:
    """Why the wheels that *python* is locked to are none for this instance; None where they fit, or nothing is locked."""
    locked = python.locked
    if locked is None:
        return None
    version = ".".join(map(str, numbers(version_meant(python, context, facts))[:2]))
    platform = f"{sys.platform}-{os.uname().machine}"
    why = ""
    if version != locked.python:
        why = f"for Python {locked.python}, and this environment has Python {version or 'of a version that is not known'}"
    elif platform != locked.platform:
        why = f"for {locked.platform}, and this instance is {platform}"
    else:
        why = _accelerator_misfit(python, locked, facts)
    return Failure("conflict", f"the lock is {why}", case="lock_misfit") if why else None


def _accelerator_misfit(python: Python, locked: LockedEnvironment, facts: Facts) -> str:
    layer = builds.torch_of(python)
    if layer is None or layer.accelerator != "auto" or locked.accelerator == "none":
        return ""  # the profile names the build itself: that is taken at its word
    versions = [wheel.version.partition("+")[0] for wheel in locked.wheels if wheel.name == "torch"]
    what = f"for torch {', '.join(versions)} with {locked.accelerator}"
    try:
        found = builds.candidates(Torch(tuple(versions)), facts)
    except Failure as failure:
        return f"{what}, which does not suit this instance: {failure.message}"
    if locked.accelerator in [candidate.tag for candidate in found]:
        return ""
    return f"{what}, and here it would be {found[0].tag}: {found[0].why}"


def install(
    locked: LockedEnvironment,
    arguments: Sequence[str],
    tools: Installer,
    by_lock: Optional[LockedInstalls],
    context: Context,
    progress: Progress,
    *,
    item: str,
    level: str,
) -> None:
    """Bring the environment to what *locked* says; what *arguments* name beside it is left out, and said.

    Args:
        arguments: Of an install; with ``--force-reinstall`` what they name is installed again, with ``--no-deps`` only that.
        by_lock: Has the engine fetch wheels; None: the installer does.

    Raises:
        Failure: as the installer's.
    """
    by_name = {wheel.name: wheel for wheel in locked.wheels}
    named = _named(arguments)
    beside = [name for name in named if name not in by_name]
    if beside:
        progress.say(f"{item}: not in the lock, and left out: {', '.join(beside)}")
    again = set(named) if "--force-reinstall" in arguments else set()
    only = set(named) if again or "--no-deps" in arguments else set(by_name)
    if not only.intersection(by_name) and locked.wheels:
        message = f"{', '.join(named) or item}: not in the lock, and nothing else may be installed"
        raise Failure("not_found", message, case="lock_misfit")
    there = tools.installed()
    wanted = [
        wheel
        for wheel in locked.wheels
        if wheel.name in only and (again or not is_there(there.get(wheel.name), wheel.version))
    ]
    if not wanted:
        return
    here: Set[str] = set()
    if by_lock is not None:
        bringing = _Bringing(wanted, by_lock, tools, context, progress, bool(again), item, level)
        here = bringing.by_uv() if tools.has_uv else bringing.by_pip()
    rest = [wheel for wheel in wanted if wheel.name not in here]
    if rest:
        path = os.path.join(context.run_directory, "locked.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{wheel.name} @ {wheel.url} --hash=sha256:{wheel.sha256}\n" for wheel in rest)
        options = [*_options(bool(again)), "--require-hashes", "--requirement", path]
        tools.install_as_told(options, progress, item=item, level=level)
    _look_again(wanted, tools.installed())


def _look_again(wanted: Sequence[LockedWheel], there: Mapping[str, str]) -> None:
    """Raise Failure where what is *there* now is not what was *wanted*."""
    other = [wheel for wheel in wanted if not is_there(there.get(wheel.name), wheel.version)]
    if other:
        told = ", ".join(f"{each.name} {there.get(each.name, 'none')} for {each.version}" for each in other)
        message = f"what was installed is not what the lock says: {told}"
        raise Failure("conflict", message, case="lock_misfit")


def pins(python: Python) -> Dict[str, str]:
    """By name what *python* is locked to: a version, and of a wheel its hash, too."""
    if python.locked is not None:
        return {wheel.name: f"{wheel.version} {wheel.sha256}" for wheel in python.locked.wheels}
    return dict(line.split("==", 1) for line in python.versions)


def room_needed(locked: LockedEnvironment) -> int:
    """What the wheels and what is in them take while they are installed, as far as the lock says."""
    return sum((wheel.size_bytes or 0) + (wheel.unpacked_bytes or 0) for wheel in locked.wheels)


def _named(arguments: Sequence[str]) -> List[str]:
    """The distributions that *arguments* ask for, of requirements files too."""
    names: List[str] = []
    values_of = (
        "--requirement",
        "-r",
        "--index-url",
        "--extra-index-url",
        "--find-links",
        "--constraint",
        "--only-binary",
    )
    for before, word in zip(["", *arguments], arguments):
        if before in ("--requirement", "-r"):
            found = requirements.names_in("", word)
        else:
            found = [] if word.startswith("-") or before in values_of else requirements.names_of([word])
        names += [name for name in found if name not in names]
    return names


def is_there(there: Optional[str], wanted: str) -> bool:
    """Is *there* the version that is *wanted*? Any build of it, where that names none."""
    return there is not None and wanted in (there, there.partition("+")[0])


class _Bringing(NamedTuple):
    """The wheels *wanted* on their way into the environment, as far as the engine brings them."""

    wanted: Sequence[LockedWheel]
    by_lock: LockedInstalls
    tools: Installer
    context: Context
    progress: Progress
    is_forced: bool
    item: str
    level: str

    def by_uv(self) -> Set[str]:
        """Install each while the others still come; the names of those that are installed."""
        packages = [LockedPackage(each.name, each.version, wheels=(_file(each),)) for each in self.wanted]
        around, order = self.tools.surroundings({}), Order((), is_forced=self.is_forced)
        wheels = self.by_lock.begin(packages, around, level=self.level)
        try:
            run = self.tools.runner(self.progress)
            return self.by_lock.place(packages, wheels, order, around, self.progress, run)
        except Failure as failure:
            if self.context.is_over() or failure.meaning.is_of_instance:
                raise
            self.progress.say(f"{self.item}: once more, all at once: {failure.message}")
            return set()

    def by_pip(self) -> Set[str]:
        """Install them when all have come; the names of those that are installed."""
        paths = self._fetched()
        if paths:
            folder = os.path.join(self.context.run_directory, "locked-wheels")
            _link(paths, folder)
            pins = [f"{each.name}=={each.version}" for each in self.wanted if each.name in paths]
            options = [*_options(self.is_forced), "--no-index", "--find-links", folder]
            self.tools.install_as_told([*options, *pins], self.progress, item=self.item, level=self.level)
            shutil.rmtree(folder, ignore_errors=True)
        return set(paths)

    def _fetched(self) -> Dict[str, str]:
        """Where each wheel is that the engine brought, by name."""
        files = {each.name: _file(each) for each in self.wanted}
        store = self.by_lock.store
        store.begin(list(files.values()), level=self.level, logins=self.tools.logins())
        fetched = store.wait(list(files.values()), self.progress)
        for name, failure in fetched.failures.items():
            self.progress.say(f"{name} cannot be fetched ({failure.message}): the installer fetches it")
        here = {name: file.file_name for name, file in files.items() if file.file_name in fetched.paths}
        return {name: fetched.paths[file_name] for name, file_name in here.items()}


def _options(is_forced: bool) -> List[str]:
    return ["--no-deps", *(["--force-reinstall"] if is_forced else [])]


def _file(wheel: LockedWheel) -> LockedFile:
    return LockedFile(url=wheel.url, size_bytes=wheel.size_bytes, hashes={"sha256": wheel.sha256})


def _link(paths: Mapping[str, str], folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for path in paths.values():
        os.symlink(os.path.abspath(path), os.path.join(folder, os.path.basename(path)))
