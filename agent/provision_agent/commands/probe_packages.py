"""What the environment of a plan would get and take: for this instance, for a machine that is described, or as locked.

Changes nothing: uv chooses from what the indexes say, and the wheels' sizes are asked for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from concurrent.futures import Executor
from dataclasses import replace
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ..contract.environment_told import EnvironmentTarget, EnvironmentTold, LineLeftOut
from ..contract.failures import Failure
from ..contract.findings import Facts
from ..contract.parsing import parse
from ..contract.plan import Download, Plan, Python
from ..contract.plan_packages import CompiledPackage, LockedEnvironment, LockedWheel
from ..contract.pylock import LockedFile, LockedPackage
from ..contract.redaction import public_url
from ..contract.steps import LEVELS
from ..downloads import Sources
from ..host import answers, probe
from ..host.environments import interpreter_of
from ..host.probe import normalised
from ..run.context import Context
from ..run.interpreters import path_meant
from ..steps.python import builds, compiled, elsewhere, from_lock, indexes, venv, wanted, wheel_room
from ..steps.python.tags import Target

CHOOSE_S = 60.0
READ_S = 600.0
"""For wheels whose hash no index tells."""
NO_UV = "uv, which chooses the packages, is not there"
ELSEWHERE = "which wheel it is can be told on such a machine only: lock with `--host`"
NO_MACHINE = "no wheels are known for this machine"


def told_of(
    plan: Plan,
    context: Context,
    access: Sources,
    pool: Executor,
    *,
    target: Optional[EnvironmentTarget],
    facts: Optional[Mapping[str, object]],
    uv: str = "",
    pin: bool = False,
) -> Optional[EnvironmentTold]:
    """What *plan*'s environment would be; None where it asks for none.

    Args:
        access: Asks the servers of wheels.
        pool: Where questions wait for their answers.
        target: The machine that is asked about; None: this one.
        facts: Of this instance; None: this is none.
        uv: Where it is; else it is looked for.
        pin: Tell the wheels one by one.
    """
    python = plan.python
    if python is None or "python" not in plan.steps:
        return None
    until = time.monotonic() + context.bounded(CHOOSE_S)
    here = parse(Facts, facts, "facts") if facts is not None else None
    there = installed(python, context, facts) if facts is not None else {}
    if python.locked is not None:
        locked = python.locked
        told = EnvironmentTold("locked", locked.python, locked.platform, locked.accelerator)
        return _summed(told, _of_lock(locked), there, pin=pin)
    uv = uv or shutil.which("uv") or shutil.which(f"{context.workspace}/.provision/tools/bin/uv") or ""
    if target is None and here is not None:
        target = _target_here(python, context, here)
    if target is None:
        return EnvironmentTold("unknown", message=NO_MACHINE)
    told = EnvironmentTold("unknown", target.python, target.platform, target.accelerator, message=NO_UV)
    if not uv:
        return told
    try:
        chosen = _chosen(plan, python, context, target, here, uv=uv, there=there, until=until)
    except Failure as failure:
        is_passing = failure.retriable or failure.meaning.is_retriable
        class_ = None if is_passing else failure.class_
        return replace(told, message=failure.message, class_=class_, hint=failure.hint)
    candidate = chosen.candidate
    told = replace(
        told,
        basis="resolved",
        message="",
        accelerator=candidate.tag if candidate is not None else "none",
        torch=f"{candidate.title}: {candidate.why}" if candidate is not None else "",
        left_out=chosen.left_out,
    )
    pin_until = time.monotonic() + context.bounded(READ_S) if pin else None
    wheels = _sized(python, chosen.wheels, access, pool, until=until, pin_until=pin_until)
    wheels, told = _with_compiled(plan, told, wheels, here, context, access, until=until, pin_until=pin_until)
    return _summed(told, wheels, there, pin=pin)


def _with_compiled(
    plan: Plan,
    told: EnvironmentTold,
    wheels: List["_Wheel"],
    here: Optional[Facts],
    context: Context,
    access: Sources,
    *,
    until: float,
    pin_until: Optional[float],
) -> "Tuple[List[_Wheel], EnvironmentTold]":
    """With the wheels of compiled packages, which follow from the torch that was chosen, and from the card."""
    torch_version = next((each.version for each in wheels if each.name == "torch"), "").partition("+")[0]
    build = compiled.build_of(told.python, torch_version, told.accelerator, here or Facts())
    is_this_kind = told.platform == f"linux-{os.uname().machine}"
    for package in compiled.of_plan(plan, LEVELS):
        found = compiled.choose(package, build, access, context) if is_this_kind else None
        if found is not None and found.url is not None:
            wheels = [*wheels, _of_compiled(found.url, access, until=until, pin_until=pin_until)]
        elif pin_until is not None:
            told = _without(told, package, found.why if found is not None else ELSEWHERE)
    return wheels, told


def _of_compiled(url: str, access: Sources, *, until: float, pin_until: Optional[float]) -> "_Wheel":
    wheel = compiled.wheel_at(url)
    name, _, rest = wheel.file_name.partition("-")
    sha256, room = _size(wheel, access, until, pin_until)
    return _Wheel(normalised(name), rest.partition("-")[0], public_url(str(wheel.url)), sha256, room)


def _without(told: EnvironmentTold, package: CompiledPackage, why: str) -> EnvironmentTold:
    """*told* with the compiled *package* said as missing: an optional one is gone without."""
    name = compiled.item_of(package)
    if package.level == "optional":
        return replace(told, left_out=(*told.left_out, LineLeftOut(name, 0, package.name, why)))
    return replace(told, unpinned=(*told.unpinned, f"{name} ({why})"))


def _chosen(
    plan: Plan,
    python: Python,
    context: Context,
    target: EnvironmentTarget,
    here: Optional[Facts],
    *,
    uv: str,
    there: Mapping[str, str],
    until: float,
) -> elsewhere.Chosen:
    is_here, facts = here is not None, here or Facts()
    settings = indexes.configured(path_meant(python, context, facts))
    if not is_here:  # folders of this machine are none of the other
        settings = {name: _reachable(value) for name, value in settings.items() if _reachable(value)}
    with tempfile.TemporaryDirectory(prefix="provision-choice-") as folder:
        environment = {"UV_INDEX_STRATEGY": "unsafe-best-match", **indexes.for_uv(settings)}
        environment.update(
            indexes.of_profile(python.indexes, context.secrets, {**os.environ, **environment}, is_for_uv=True)
        )
        compiler = elsewhere.Compiler(uv, target, folder, environment, context)
        parts = wanted.parts_of(plan, context, is_here=is_here)

        def choose(versions: Mapping[str, str]) -> elsewhere.Chosen:
            compiler.constraints = dict(versions)
            accelerator = None if is_here else target.accelerator
            return elsewhere.choose(
                python, parts, facts, compiler, settings, accelerator=accelerator, until=until
            )

        locked = from_lock.pins(python)
        try:
            return choose({**there, **locked})
        except Failure as failure:
            if failure.meaning.is_retriable or not there:
                raise
        return choose(locked)  # what stands there cannot stay: a run replaces it


def _reachable(value: str) -> str:
    """Of an option's words those that mean the same on another machine."""
    return " ".join(
        word
        for word in value.split()
        if not word.startswith(("/", "~", ".", "file:")) or os.path.isfile(word)
    )


def _target_here(python: Python, context: Context, facts: Facts) -> Optional[EnvironmentTarget]:
    """This instance; None where wheels for it are none of those that are chosen from."""
    path = path_meant(python, context, facts)
    try:
        version = Target.of(venv.version_at(path, context, facts)).python
    except Failure:
        return None
    machine = os.uname().machine
    layer = builds.torch_of(python)
    try:
        tag = builds.candidates(layer, facts)[0].tag if layer is not None else "cpu"
    except Failure:
        tag = "cpu"  # what is wrong is said when torch is chosen
    if machine not in ("x86_64", "aarch64") or len(version) < 2:
        return None
    return EnvironmentTarget(f"{version[0]}.{version[1]}", f"linux-{machine}", tag)


def installed(python: Python, context: Context, found: Mapping[str, object]) -> Dict[str, str]:
    """Version by name of what the environment of *python* holds; empty where there is none, or it does not answer.

    Args:
        found: The instance's facts.
    """
    interpreter = interpreter_of(path_meant(python, context, parse(Facts, found, "facts")))
    if not os.path.exists(interpreter):
        return {}
    try:
        return probe.ask(interpreter, answers.Installed, timeout_s=context.bounded(30.0)).versions
    except Failure:
        return {}


class _Wheel(NamedTuple):
    """One that was chosen, and its sizes."""

    name: str
    version: str
    url: str
    sha256: Optional[str]
    room: wheel_room.Room


def _sized(
    python: Python,
    chosen: Mapping[str, Tuple[LockedPackage, LockedFile]],
    access: Sources,
    pool: Executor,
    *,
    until: float,
    pin_until: Optional[float],
) -> List[_Wheel]:
    """The chosen wheels with their sizes; where they are to be pinned with the hashes, which are read if no index tells them."""
    for _, file in chosen.values():
        for index in python.indexes:
            if index.basic is not None and _origin(str(file.url)) == _origin(index.url):
                access.add(Download(str(file.url), file.file_name, basic=index.basic))
    asked = [
        (name, package, file, pool.submit(_size, file, access, until, pin_until))
        for name, (package, file) in sorted(chosen.items())
    ]
    return [
        _Wheel(name, str(package.version), public_url(str(file.url)), *answer.result())
        for name, package, file, answer in asked
    ]


def _size(
    file: LockedFile, access: Sources, until: float, pin_until: Optional[float]
) -> Tuple[Optional[str], wheel_room.Room]:
    url, sha256 = str(file.url), file.sha256
    room = wheel_room.room_of(url, file.size_bytes, access, until=until)
    if sha256 is None and pin_until is not None:
        sha256 = wheel_room.sha256_of(url, access, until=pin_until)
    return sha256, room


def _origin(url: str) -> Tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]


def _of_lock(locked: LockedEnvironment) -> List[_Wheel]:
    return [
        _Wheel(
            each.name,
            each.version,
            each.url,
            each.sha256,
            wheel_room.Room(each.size_bytes, each.unpacked_bytes),
        )
        for each in locked.wheels
    ]


def _summed(
    told: EnvironmentTold, wheels: Sequence[_Wheel], there: Mapping[str, str], *, pin: bool
) -> EnvironmentTold:
    coming = [wheel for wheel in wheels if not from_lock.is_there(there.get(wheel.name), wheel.version)]
    sizes = [wheel.room.size_bytes for wheel in coming if wheel.room.size_bytes is not None]
    rooms = [wheel.room.unpacked_bytes for wheel in coming if wheel.room.unpacked_bytes is not None]
    return replace(
        told,
        count=len(wheels),
        present=len(wheels) - len(coming),
        fetch_bytes=sum(sizes) if sizes or not coming else None,
        unpacked_bytes=sum(rooms) if rooms or not coming else None,
        unknown_sizes=len(coming) - min(len(sizes), len(rooms)),
        wheels=tuple(
            LockedWheel(each.name, each.version, each.url, str(each.sha256), *each.room)
            for each in wheels
            if pin and _can_be_pinned(each)
        ),
        unpinned=told.unpinned
        + tuple(f"{each.name}=={each.version}" for each in wheels if pin and not _can_be_pinned(each)),
    )


def _can_be_pinned(wheel: _Wheel) -> bool:
    return wheel.sha256 is not None and wheel.url.startswith(("http://", "https://"))
