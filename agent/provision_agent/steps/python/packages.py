"""The layers of a Python environment, one after the other, each skipped when it is there already.

After a layer that named a package, nothing that comes later changes its version where the plan protects it.
One install at a time per environment: two would corrupt each other.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager
from dataclasses import asdict
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Set

from ...contract.failures import Failure
from ...contract.findings import Facts
from ...contract.parsing import parse
from ...contract.plan import Layer, Python
from ...contract.plan_packages import CompiledPackage
from ...host.probe import normalised
from ...run.context import Context
from ..progress import Progress
from . import compiled, compiled_install, fitting, one_step, repair, requirements, torch
from .guard import Guard
from .installer import Installer
from .locked_install import LockedInstalls
from .one_step import Step, digest_of
from .venv import Venv

LEVEL = "critical"
_installing = threading.Lock()


def install(
    python: Python,
    venv: Venv,
    context: Context,
    found: Mapping[str, object],
    *,
    reads_bytes: bool = False,
    by_lock: Optional[LockedInstalls] = None,
) -> None:
    """Mend the environment, take out what the plan does not want, and install its layers in order.

    Args:
        found: The instance's facts.
        reads_bytes: See by the bytes of what is installed, and not by sizes, whether it is as it was.
        by_lock: Resolves first, and has wheels fetched by the engine.

    Raises:
        Failure: of the layer that cannot be installed; it is reported as ``package_failed`` too.
    """
    facts = parse(Facts, found, "facts")
    with one_at_a_time(context):
        tools = Installer(python, venv, context, by_lock=by_lock)
        guard = Guard(python, tools, context)
        from_torch = [name for layer in python.layers if layer.torch for name in torch.names(layer.torch)]
        named = requirements.names_of(line for layer in python.layers for line in layer.packages)
        with Progress(context, repair.ITEM, LEVEL) as progress:
            tools.prepare(progress)
            watched, later = [*python.protect, *from_torch], [*named, *from_torch]
            repair.remove_interrupted(tools, context)
            repair.mend(tools, context, facts, progress, watched=watched, later=later)
            _remove_unwanted(python, tools, progress)
        here = compiled_install.Surroundings(tools, context, facts, by_lock.store if by_lock else None)
        for step in _steps(python.layers, here):
            one_step.run(
                step, tools, guard, context, level=LEVEL, reports_failure=True, reads_bytes=reads_bytes
            )


def look_ahead(python: Python, coming: Venv, context: Context, by_lock: LockedInstalls) -> None:
    """Resolve the layers, and begin to fetch, while the environment is still being made; where that can be done.

    Args:
        coming: The environment, with the python that it is made with.
    """
    ahead = by_lock.look_ahead
    if ahead is None or not ahead.may_begin_early() or python.locked is not None or context.is_offline:
        return
    tools = Installer(python, coming, context, by_lock=by_lock)
    ahead.begin_early(by_lock, lambda: tools.surroundings(tools.locked, is_new=True))


def install_compiled(
    package: CompiledPackage,
    venv: Venv,
    context: Context,
    python: Python,
    found: Mapping[str, object],
    *,
    by_lock: Optional[LockedInstalls] = None,
) -> None:
    """Install one compiled package that its layer has left for later, under the same protection.

    Args:
        found: The instance's facts.
        by_lock: As for `install`.

    Raises:
        Failure: there is no wheel of it for this instance, or it cannot be installed.
    """
    with one_at_a_time(context):
        tools = Installer(python, venv, context, by_lock=by_lock)
        store = by_lock.store if by_lock else None
        here = compiled_install.Surroundings(tools, context, parse(Facts, found, "facts"), store)
        guard, step = Guard(python, tools, context), _compiled_step(package, here)
        one_step.run(
            step, tools, guard, context, level=package.level, reports_failure=False, reads_bytes=False
        )


def install_requirements(
    path: str,
    venv: Venv,
    context: Context,
    python: Python,
    item: str,
    level: str,
    *,
    reads_bytes: bool = False,
    by_lock: Optional[LockedInstalls] = None,
    is_started: bool = False,
) -> None:
    """Install the requirements file at *path*, under the same protection as the layers.

    Args:
        by_lock: As for `install`.
        is_started: That it has started was reported already.

    Raises:
        Failure: it is not there, or cannot be installed.
    """
    with one_at_a_time(context):
        tools = Installer(python, venv, context, by_lock=by_lock)
        here = compiled_install.Surroundings(tools, context, Facts(), by_lock.store if by_lock else None)
        step = requirements_step(item, path, here, of_node=True)
        guard = Guard(python, tools, context)
        stand_beside(tools, guard, by_lock)
        try:
            one_step.run(
                step,
                tools,
                guard,
                context,
                level=level,
                reports_failure=False,
                reads_bytes=reads_bytes,
                is_started=is_started,
            )
            if by_lock is not None:
                by_lock.standing += fitting.kept_lines(path, item, context)
        except Failure as failure:
            raise _kept_out(failure, item, tools.kept_out) from None


def stand_beside(tools: Installer, guard: Guard, by_lock: Optional[LockedInstalls]) -> None:
    """Have what *tools* installs for a node go with the layers, and with the nodes before it."""
    tools.kept_out = guard.missing()
    if by_lock is not None:
        layers = by_lock.look_ahead.layer_lines() if by_lock.look_ahead is not None else []
        tools.standing = [*layers, *by_lock.standing]
        tools.stays = requirements.names_of(layers)


def _kept_out(failure: Failure, item: str, names: Set[str]) -> Failure:
    """*failure* of *item*, or what it means where it is about one of *names*, which nothing may bring."""
    said = f"{failure.message} {failure.facts.get('tail', '')}"
    named = [name for name in sorted(names) if re.search(rf"\b{re.escape(name)}\b", said)]
    if failure.class_ not in ("not_found", "conflict") or not named:
        return failure
    return Failure(
        "missing",
        f"{item} needs {', '.join(named)}, which the torch layer was to bring and did not; nothing else may bring it",
    )


def title(layer: Layer) -> str:
    """What a layer is called in events, and remembered as."""
    if layer.torch is not None:
        return torch.ITEM
    if layer.requirements is not None:
        return layer.requirements
    names = requirements.names_of(layer.packages)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def titles(layer: Layer) -> List[str]:
    """What the steps of *layer* are called: of itself, and of its critical compiled packages."""
    own = [title(layer)] if _is_step(layer) else []
    return own + [compiled.item_of(package) for package in layer.compiled if package.level == LEVEL]


def _is_step(layer: Layer) -> bool:
    """Is there more in *layer* than compiled packages?"""
    return bool(layer.packages or layer.torch or layer.requirements or not layer.compiled)


def _steps(layers: Sequence[Layer], here: compiled_install.Surroundings) -> Iterator[Step]:
    """Of each layer itself, and of its critical compiled packages; each made when it is its turn.

    It may read a file that the one before it has made.
    """
    for layer in layers:
        if _is_step(layer):
            yield _step_of(layer, here)
        for package in layer.compiled:
            if package.level == LEVEL:
                yield _compiled_step(package, here)


def _step_of(layer: Layer, here: compiled_install.Surroundings) -> Step:
    tools = here.tools
    if layer.torch is not None:
        return _torch_step(layer, tools, here.context, here.facts)
    if layer.requirements is not None:
        path = os.path.join(here.context.workspace, layer.requirements)
        return requirements_step(layer.requirements, path, here)
    names, item = requirements.names_of(layer.packages), title(layer)

    def install(progress: Progress, held: Dict[str, str], level: str) -> None:
        compiled_install.refuse(layer.packages, here)
        lines = [*compiled_install.wheels_only(names, here), *layer.packages]
        tools.install(lines, progress, item=item, level=level, constraints=held)

    return Step(item, names, digest_of([asdict(layer), tools.locked]), names, install, lambda: True)


def _compiled_step(package: CompiledPackage, here: compiled_install.Surroundings) -> Step:
    item, build = compiled.item_of(package), here.build()

    def install(progress: Progress, held: Dict[str, str], level: str) -> None:
        compiled_install.install(package, here, progress, held, item=item)

    return Step(item, [item], digest_of([asdict(package), list(build)]), [item], install, lambda: True)


def requirements_step(
    item: str, path: str, here: compiled_install.Surroundings, *, of_node: bool = False
) -> Step:
    """The install of the requirements file at *path*, which is called *item*."""

    def install(progress: Progress, held: Dict[str, str], level: str) -> None:
        told, wanted = _read(path), path
        left = compiled_install.left_out(path, here)
        for each in left:
            if not of_node:
                raise Failure("not_found", f"line {each.number}: {each.reason}", case="would_compile")
            here.context.warn_once(f"{item}:{each.number}: `{each.line}` is left out: {each.reason}")
        if left:
            wanted = compiled_install.without(path, left, here.context.run_directory)
        only = compiled_install.wheels_only(told.names, here)
        if of_node:
            fitting.install(wanted, only, here.tools, here.context, progress, held, item=item, level=level)
            return
        lines = [*only, "--requirement", wanted]
        here.tools.install(lines, progress, item=item, level=level, constraints=held)

    try:
        found = _read(path)
    except Failure:
        found = requirements.Requirements([], "")
    return Step(
        item,
        [],
        digest_of([item, found.digest, here.tools.locked]),
        found.names,
        install,
        lambda: bool(found.digest),
    )


def _torch_step(layer: Layer, tools: Installer, context: Context, facts: Facts) -> Step:
    wanted = layer.torch
    assert wanted is not None
    names = torch.names(wanted)
    work = torch.TorchLayer(wanted, tools, context, facts)

    def install(progress: Progress, held: Dict[str, str], level: str) -> None:
        if work.is_satisfied():
            progress.say(f"torch {tools.installed()['torch']} is there and runs")
        else:
            work.install(progress, held)

    return Step(
        torch.ITEM, names, digest_of([asdict(layer), tools.locked]), names, install, work.is_satisfied
    )


def _read(path: str) -> requirements.Requirements:
    try:
        return requirements.read(path)
    except OSError as error:
        raise Failure(
            "missing",
            f"cannot read the requirements `{path}`: {error.strerror}",
            case="requirements_path",
        ) from None


def _remove_unwanted(python: Python, tools: Installer, progress: Progress) -> None:
    present = [name for name in map(normalised, python.remove) if name in tools.installed()]
    if present:
        progress.say(f"removing {', '.join(present)}")
        tools.uninstall(present, progress)


@contextmanager
def one_at_a_time(context: Context) -> Iterator[None]:
    """Nobody else installs meanwhile. Raises Failure when the run ends before it is one's turn."""
    while not _installing.acquire(timeout=0.5):
        if context.is_over():
            raise Failure("timed_out", "stopped while another install was running", retriable=True)
    try:
        yield
    finally:
        _installing.release()
