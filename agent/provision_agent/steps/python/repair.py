"""Finds what an interrupted install left in an environment, and mends it: clean, reinstall, recreate.

Runs before anything is installed. Each attempt is a warning; one that fails is no error as long as
there is a next one.
"""

from __future__ import annotations

import os
import re
from typing import Iterable, List, Mapping, Sequence

from ...contract.failures import Failure
from ...contract.findings import Facts
from ...host import answers, probe
from ...host.probe import normalised
from ...run.context import Context
from .. import remove_tree
from ..progress import Progress
from . import interrupted, layer_record, torch, venv
from .installer import Installer

ITEM = venv.ITEM
"""What is mended is told of the environment itself."""
IMPORT_S = 90.0
ALWAYS_WATCHED = ("numpy",)


def mend(
    tools: Installer,
    context: Context,
    facts: Facts,
    progress: Progress,
    *,
    watched: Iterable[str],
    later: Iterable[str],
) -> None:
    """Leave an environment in which nothing is half there.

    Args:
        tools: Of the environment.
        context: Of the run.
        facts: For making the environment again.
        progress: Told each attempt.
        watched: Distributions whose every file is looked for.
        later: Those of them that a layer installs anyway: removing them is enough.

    Raises:
        Failure: `command` when even a new environment cannot be made.
    """
    names = sorted({normalised(name) for name in watched} | set(ALWAYS_WATCHED))
    leftovers = find_leftovers(tools.site_packages(), names)
    if leftovers:
        shown = ", ".join(sorted(map(os.path.basename, leftovers))[:5])
        _warn(
            context, f"an interrupted install left {len(leftovers)} folder(s) behind ({shown}): removing them"
        )
        _remove(leftovers, context)
        tools.forget_versions()
    for name, reason in _broken(tools, context, names).items():
        if not _reinstall(name, reason, tools, context, progress, is_later=name in set(later)):
            _recreate(name, tools, context, facts, progress)
            return


def remove_interrupted(tools: Installer, context: Context) -> None:
    """Take away what was being installed when the agent died and is not whole: who needs it installs it again."""
    python = tools.venv.python
    for name in interrupted.not_whole(context, python):
        _warn(context, f"an install was interrupted and left {name} unfinished: removing it")
        for folder in tools.site_packages():
            _remove(_trees_of(name, folder), context)
        tools.forget_versions()
    interrupted.end(context, python, interrupted.names_left(context, python))


def restore(
    harmed: Mapping[str, answers.Harm],
    tools: Installer,
    context: Context,
    progress: Progress,
    *,
    item: str,
    level: str,
) -> None:
    """Install what lost files, or has other ones, again: the same version, or else the one that can be had.

    Args:
        harmed: By distribution, what happened to it.
        tools: Of the environment.
        context: Of the run.
        progress: Told what the installer says.
        item: What they belong to, for events.
        level: Its level.

    Raises:
        Failure: they cannot be had; what is left of them stays as it is.
    """
    installed = tools.installed()
    for name, harm in harmed.items():
        what = layer_record.told(f"{name} {installed.get(name, '')}", harm)
        _warn(context, f"{what}: installing it again")
        for path in harm.dangling:
            os.unlink(path)  # pip writes through a link
        if "RECORD" in harm.missing:  # no installer can take it away
            for folder in tools.site_packages():
                _remove(_trees_of(name, folder), context)

    def install(requirements: List[str]) -> None:
        for options, group in torch.groups(requirements, context, tools.venv.path):
            again = ["--force-reinstall", "--no-deps", "--no-cache-dir", *options, *group]
            tools.install(again, progress, item=item, level=level, constraints={})

    try:
        try:
            install([f"{name}=={installed[name]}" for name in harmed if name in installed])
        except Failure as failure:
            if context.cancelled.is_set() or failure.retriable or failure.meaning.is_of_instance:
                raise
            progress.say(f"the same versions cannot be had: {failure.message}")
            install(list(harmed))
    except Failure as failure:
        failure.message = f"{', '.join(harmed)} lost files and cannot be installed again: {failure.message}"
        raise


def find_leftovers(folders: Sequence[str], names: Sequence[str]) -> List[str]:
    """Paths in site-packages that no finished install leaves: ``~name`` trees, metadata without its core files.

    A missing RECORD counts only for *names*: other tools than pip install without one.
    """
    found = []
    for folder in folders:
        for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            path = os.path.join(folder, entry)
            if entry.startswith("~"):
                found.append(path)
            elif entry.endswith(".dist-info"):
                name = normalised(entry.split("-")[0])
                has_metadata = os.path.exists(os.path.join(path, "METADATA"))
                has_record = os.path.exists(os.path.join(path, "RECORD"))
                if not has_metadata or (name in names and not has_record):
                    found += [path, *_trees_of(name, folder)]
    return sorted(set(found))


def _trees_of(name: str, folder: str) -> List[str]:
    """Everything in *folder* that belongs to the distribution *name*, by the names that wheels use."""
    stem = name.replace("-", "_")
    pattern = re.compile(
        rf"({re.escape(stem)}|{re.escape(name)})(\.libs|\.py|-[^-]+\.dist-info|)", re.IGNORECASE
    )
    return [os.path.join(folder, entry) for entry in os.listdir(folder) if pattern.fullmatch(entry)]


def _broken(tools: Installer, context: Context, names: Sequence[str]) -> "dict[str, str]":
    """Why each of *names* that is installed cannot be used; torch is run by its own layer, not here."""
    present = [name for name in names if name in tools.installed()]
    if not present:
        return {}
    python = tools.venv.python
    limit = context.bounded(IMPORT_S)
    damage = probe.ask(python, answers.Damage, *present, timeout_s=limit, cancelled=context.cancelled)
    missing = {name: harm.missing for name, harm in damage.harmed.items() if harm.missing}
    broken = {name: f"misses {', '.join(files[:2])}" for name, files in missing.items()}
    if "numpy" in present and "numpy" not in broken:
        try:
            told = probe.ask(python, answers.Imports, "numpy", timeout_s=limit, cancelled=context.cancelled)
            reason = told.reasons.get("numpy", "")
        except Failure as failure:
            reason = failure.message
        if reason:
            broken["numpy"] = f"cannot be imported: {reason}"
    return broken


def _reinstall(
    name: str, reason: str, tools: Installer, context: Context, progress: Progress, *, is_later: bool
) -> bool:
    """Remove *name* by hand and install the same version again; False when it is still broken."""
    version = tools.installed()[name]
    _warn(context, f"{name} {version} {reason}: {'removing it' if is_later else 'installing it again'}")
    for folder in tools.site_packages():
        _remove(_trees_of(name, folder), context)
    tools.forget_versions()
    if is_later:
        return True
    try:
        tools.install(
            ["--force-reinstall", "--no-deps", f"{name}=={version}"],
            progress,
            item=ITEM,
            level=venv.LEVEL,
            constraints={},
        )
    except Failure as failure:
        progress.say(f"{name} {version} cannot be installed again: {failure.message}")
        return False
    return name not in _broken(tools, context, [name])


def _recreate(name: str, tools: Installer, context: Context, facts: Facts, progress: Progress) -> None:
    path = tools.venv.path
    if not venv.is_ours(path, context):
        raise Failure(
            "command",
            f"{name} in {path} is broken and cannot be installed again; the environment was not made by a run",
            case="venv_not_ours",
        )
    _warn(context, f"{name} is still broken: making {path} again from nothing")
    left = remove_tree.remove(path, context)
    if left is not None:
        _warn(context, left)
    venv.make(path, context, facts, progress)
    tools.forget_all()


def _remove(paths: Iterable[str], context: Context) -> None:
    for path in paths:
        left = remove_tree.remove(path, context)
        if left is not None:
            _warn(context, left)


def _warn(context: Context, message: str) -> None:
    context.report("warning", message=message)
