"""Distributions that bring the same files under different names: one of them holds the files, the others only their names.

``opencv-python``, ``opencv-python-headless`` and ``opencv-contrib-python`` all bring ``cv2``, and nodes of ComfyUI ask
for all of them: installed side by side, each overwrites the others, and taking one away takes the files of all. So one
stays, and in the place of each of the others stands a distribution without files, which pip and uv take for the other
one and which needs the one that stayed.
"""

from __future__ import annotations

import os
from typing import Callable, Dict, Iterable, List, Mapping, Sequence

from ...host import answers, probe
from ...host.probe import normalised
from ...run.context import Context
from ..progress import Progress
from . import venv as environments
from .families import FAMILIES, HELD_BY, Family, stand_in
from .installer import Installer

IMPORT_S = 60.0
_HEADLESS = "-headless"
"""The end of the name of one that runs on a machine without a screen's libraries."""


def settle(
    before: Mapping[str, str],
    tools: Installer,
    context: Context,
    progress: Progress,
    *,
    item: str,
    level: str,
) -> None:
    """Of each family that has more than one member with files, keep one.

    Args:
        before: Version by name of what was installed before the step *item*: an image's own members stay as they are
            as long as no step brings another one.
        tools: Of the environment.
        context: Of the run.
        progress: Told what is done.
        item: What it is part of, for events.
        level: Its level.

    Raises:
        Failure: the one that is kept cannot be installed again.
    """
    for family in FAMILIES:
        installed = tools.installed()
        if sum(name in installed for name in family.members) < 2:
            continue
        folders = _folders(family.members, tools.site_packages())
        full = [name for name in family.members if name in folders and not _is_held(folders[name])]
        changed = [name for name in folders if before.get(name) != installed.get(name)]
        is_new = any(name in changed for name in full)
        is_ours = is_new or environments.is_ours(tools.venv.path, context)

        def install(requirement: str) -> None:
            tools.install(["--no-deps", requirement], progress, item=item, level=level, constraints={})

        if len(full) > 1 and is_ours:
            progress.say(f"{', '.join(full)} bring the same files: {full[0]} has them from now on")
            tools.uninstall(full, progress)
            install(f"{full[0]}=={installed[full[0]]}")
        elif not (is_new and any(name not in full for name in changed)):
            continue  # nobody has begun to stand in for another
        kept = _importable(family, full[0], installed[full[0]], tools, context, progress, install)
        for name in folders:
            if name != kept:
                stand_in(os.path.dirname(folders[name]), name, installed[name], kept)
        tools.forget_versions()


def _importable(
    family: Family,
    name: str,
    version: str,
    tools: Installer,
    context: Context,
    progress: Progress,
    install: Callable[[str], None],
) -> str:
    """The member that has the files: *name*, or its like in its place that needs no screen, where *name* needs one."""
    without_screen = f"{name}{_HEADLESS}"
    if without_screen not in family.members or _can_import(family.module, tools, context):
        return name
    tools.uninstall([name], progress)
    install(f"{without_screen}=={version}")
    return without_screen


def _can_import(module: str, tools: Installer, context: Context) -> bool:
    limit_s = context.bounded(IMPORT_S)
    told = probe.ask(
        tools.venv.python, answers.Imports, module, timeout_s=limit_s, cancelled=context.cancelled
    )
    return not told.reasons.get(module)


def _folders(names: Iterable[str], site_packages: Sequence[str]) -> Dict[str, str]:
    """The folder of metadata of each of *names* that is there."""
    wanted = set(names)
    found: Dict[str, str] = {}
    for folder in site_packages:
        for entry in _entries(folder):
            name = normalised(entry.split("-")[0])
            if entry.endswith(".dist-info") and name in wanted:
                found.setdefault(name, os.path.join(folder, entry))
    return found


def _entries(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _is_held(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, HELD_BY))
