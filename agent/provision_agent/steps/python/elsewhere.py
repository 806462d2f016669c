"""Which wheels the packages of a plan would be on a machine that need not be this one: uv chooses, nothing is installed.

Nothing is built, either, since a build runs other people's programs: what has no wheel cannot be chosen here.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...contract.environment_told import EnvironmentTarget, LineLeftOut
from ...contract.failures import Failure
from ...contract.findings import Facts
from ...contract.parsing import ParseError
from ...contract.plan import Python, Torch
from ...contract.pylock import LockedFile, LockedPackage, read_lock
from ...host import process
from ...host.probe import normalised
from ...run.context import Context
from . import builds, companions, pip_errors, torch
from .builds import Candidate
from .misfits import misfits
from .wanted import Line, Part

COMPILE_S = 120.0
NO_WHEEL = "it has no wheel for this machine"
_ELSEWHERE = re.compile(r"(?:-e\s|--editable|\.{0,2}/|~)|(?:^|@\s*)(?:git|hg|svn|bzr)\+|^\.$")
"""A line that is no package of an index."""


class Chosen(NamedTuple):
    """What an environment would get."""

    wheels: Dict[str, Tuple[LockedPackage, LockedFile]]
    """By name."""
    candidate: Optional[Candidate]
    """Which torch; None: no layer asks for one."""
    left_out: Tuple[LineLeftOut, ...]


class Compiler:
    """uv, told for which machine it is to choose. `environment` is what it knows of indexes."""

    def __init__(
        self,
        uv: str,
        target: EnvironmentTarget,
        folder: str,
        environment: Mapping[str, str],
        context: Context,
    ) -> None:
        self.constraints: Dict[str, str] = {}
        """Versions by name that nothing may differ from."""
        self._uv = uv
        self._target = target
        self._folder = folder
        self._environment = environment
        self._context = context

    @property
    def python(self) -> str:
        """The version that is chosen for, such as ``3.11``."""
        return self._target.python

    def compile(self, lines: Sequence[str], options: Sequence[str] = ()) -> List[LockedPackage]:
        """All packages that *lines* need.

        Raises:
            Failure: `not_found`, `conflict`, `network`, …
        """
        path = os.path.join(self._folder, "wanted.in")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        constraints = os.path.join(self._folder, "constraints.txt")
        with open(constraints, "w", encoding="utf-8") as file:
            file.writelines(f"{name}=={version}\n" for name, version in sorted(self.constraints.items()))
        machine = self._target.platform.partition("-")[2]
        said: List[str] = []
        argv = [self._uv, "pip", "compile", path, "--quiet", "--format", "pylock.toml", "--no-header"]
        argv += ["--output-file", f"{self._folder}/pylock.toml", "--only-binary", ":all:"]
        argv += ["--python-version", self._target.python, "--python-platform", f"{machine}-manylinux_2_28"]
        argv += ["--constraint", constraints] if self.constraints else []
        done = process.run(
            [*argv, *options],
            timeout_s=self._context.bounded(COMPILE_S),
            directory=self._folder,
            environment=process.child_environment(dict(self._environment)),
            on_line=said.append,
            cancelled=self._context.cancelled,
        )
        if done.status != 0:
            raise pip_errors.failure(argv, done.status, said, timeout_s=COMPILE_S)
        try:
            with open(f"{self._folder}/pylock.toml", "rb") as written:
                return list(read_lock(written.read()).packages)
        except (OSError, ParseError) as error:
            raise Failure("command", f"uv wrote a lock that cannot be read: {error}") from None


def choose(
    python: Python,
    parts: Sequence[Part],
    facts: Facts,
    compiler: Compiler,
    settings: Mapping[str, str],
    *,
    accelerator: Optional[str],
    until: float,
) -> Chosen:
    """What the layers of *python* and the repositories of *parts* get, chosen all together.

    A line of a repository that conflicts with what stands, or cannot be had as a wheel, is left out: in the plan's order.

    Args:
        settings: What pip is told about indexes.
        accelerator: The build of torch; None: as driver and card want it.
        until: When to give up, by the monotonic clock.

    Raises:
        Failure: a layer cannot be had.
    """
    candidate, from_torch, options = _torch(python, facts, compiler, settings, accelerator=accelerator)
    layers = [part for part in parts if part.is_layer and not part.is_alone]
    options += [option for part in parts for option in _of_index(part)]
    settled = [*from_torch, *(_wheel_line(line) for part in layers for line in part.lines)]
    nodes = [part for part in parts if not part.is_layer]
    left_out = [each for part in nodes for each in _never(part)]
    lines = [line for part in nodes for line in part.lines if _why_never(part, line) is None]
    try:
        found = compiler.compile([*settled, *(line.text for line in lines)], options)
    except Failure as failure:
        if failure.meaning.is_retriable or not lines:
            raise
        found = compiler.compile(settled, options)  # a layer fails for its own reason

        def problem(some: Sequence[Line]) -> Optional[Failure]:
            nonlocal found
            if time.monotonic() > until:
                message = "the requirements of the repositories conflict in too many ways to be told in time"
                raise Failure("timed_out", message)
            try:
                found = compiler.compile([*settled, *(line.text for line in some)], options)
            except Failure as reason:
                if reason.meaning.is_retriable:
                    raise
                return reason
            return None

        dropped = misfits(lines, problem, together=failure)  # what was compiled last are all the others
        left_out += [LineLeftOut(line.file, line.number, line.text, why.message) for line, why in dropped]
    wheels = _wheels(found, compiler.python)
    for part in (part for part in parts if part.is_alone):
        alone = compiler.compile([line.text for line in part.lines], [*_of_index(part), "--no-deps"])
        wheels.update(_wheels(alone, compiler.python))
    return Chosen(wheels, candidate, tuple(left_out))


def _torch(
    python: Python,
    facts: Facts,
    compiler: Compiler,
    settings: Mapping[str, str],
    *,
    accelerator: Optional[str],
) -> Tuple[Optional[Candidate], List[str], List[str]]:
    """The first candidate that can be had, its requirements, and the options that name its index."""
    wanted = builds.torch_of(python)
    if wanted is None:
        return None, [], []
    if accelerator is not None:
        if wanted.accelerator not in ("auto", accelerator):
            message = (
                f"the profile asks for torch's build {wanted.accelerator}, and {accelerator} is asked about"
            )
            raise Failure("conflict", message)
        wanted = replace(wanted, accelerator=accelerator)
    last = Failure("not_found", "there is no candidate for torch")
    for candidate in builds.candidates(wanted, facts):
        for source in torch.sources(wanted, candidate, settings):
            lines, options = _lines_of(wanted, candidate, source)
            try:
                compiler.compile(lines, options)
                return candidate, lines, options
            except Failure as failure:
                if failure.meaning.is_of_instance or failure.class_ == "command":
                    raise
                last = failure.saying(
                    f"{candidate.title} cannot be had from {source.title}: {failure.message}"
                )
    raise last


def _lines_of(wanted: Torch, candidate: Candidate, source: torch.Source) -> Tuple[List[str], List[str]]:
    line, options = (
        source.requirement,
        [f"--find-links={place}" for place in wanted.find_links if "://" in place],
    )
    if "--index-url" in source.options:  # not in place of the usual one: that has what torch needs
        options += [f"--index={url}" for url in source.urls]
        if candidate.version is not None and "+" not in candidate.version and wanted.index is None:
            line = f"torch=={candidate.version}+{candidate.tag}"
    return [line, *companions.requirements(wanted.extras, candidate.version, {})], options


def _of_index(part: Part) -> List[str]:
    names = ("--index-url=", "--extra-index-url=", "--find-links=", "--pre")
    return [
        option.replace("--index-url=", "--extra-index-url=", 1)
        if option.startswith("--index-url=")
        else option
        for option in part.options
        if option.startswith(names)
    ]


def _wheel_line(line: Line) -> str:
    if _ELSEWHERE.search(line.text):
        where = f"{line.file}:{line.number}: " if line.file else ""
        raise Failure(
            "conflict", f"{where}`{line.text}` is no package of an index: it has no wheel to choose"
        )
    return line.text


def _why_never(part: Part, line: Line) -> Optional[str]:
    if "--unreadable" in part.options:
        return line.text
    return "it is no package of an index" if _ELSEWHERE.search(line.text) else None


def _never(part: Part) -> List[LineLeftOut]:
    told = [(line, _why_never(part, line)) for line in part.lines]
    return [LineLeftOut(line.file, line.number, line.text, why) for line, why in told if why is not None]


def _wheels(packages: Sequence[LockedPackage], python: str) -> Dict[str, Tuple[LockedPackage, LockedFile]]:
    found = {}
    for package in packages:
        files = [file for file in package.wheels if file.url is not None]
        if not files:
            raise Failure("not_found", f"{package.pin}: {NO_WHEEL}")
        found[normalised(package.name)] = (
            package,
            max(files, key=lambda file: _rank(file.file_name, python)),
        )
    return found


def _rank(file: str, python: str) -> Tuple[bool, bool, bool, Tuple[int, ...]]:
    """Of files that all fit, the one made for this very interpreter and kind of machine is the best, as for pip."""
    own = f"cp{python.replace('.', '')}"
    pythons, abi, platform = file[: -len(".whl")].split("-")[-3:]
    numbers = (
        tuple(map(int, re.findall(r"manylinux_(\d+)_(\d+)", platform)[0])) if "manylinux_" in platform else ()
    )
    return own in pythons.split("."), abi in (own, "abi3"), platform != "any", numbers
