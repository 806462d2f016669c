"""Distributions that bring the same files under different names: one of them holds the files, the others only their names.

``opencv-python``, ``opencv-python-headless`` and ``opencv-contrib-python`` all bring ``cv2``, and nodes of ComfyUI ask
for all of them: installed side by side, each overwrites the others, and taking one away takes the files of all. So one
stays, and in the place of each of the others stands a distribution without files, which pip and uv take for the other
one and which needs the one that stayed.
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from ...host import answers, probe
from ...host.probe import normalised
from ...run.context import Context
from ..progress import Progress
from . import venv as environments
from .installer import Installer


class Family(NamedTuple):
    """Distributions that bring the *module*; the one that has most, and needs least of the machine, comes first."""

    module: str
    members: Tuple[str, ...]


FAMILIES = (
    Family(
        "cv2",
        (
            "opencv-contrib-python-headless",
            "opencv-contrib-python",
            "opencv-python-headless",
            "opencv-python",
        ),
    ),
    Family("onnxruntime", ("onnxruntime-gpu", "onnxruntime")),
)
HELD_BY = "HELD_BY"
"""A file in the metadata of a distribution without files: the name of the one that has them."""
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
    installed = tools.installed()
    for family in FAMILIES:
        if sum(name in installed for name in family.members) < 2:
            continue
        folders = _folders(family.members, tools.site_packages())
        full = [name for name in family.members if name in folders and not _is_held(folders[name])]
        is_new = any(before.get(name) != installed.get(name) for name in full)
        if len(full) < 2 or not (is_new or environments.is_ours(tools.venv.path, context)):
            continue

        def install(requirement: str) -> None:
            tools.install(["--no-deps", requirement], progress, item=item, level=level, constraints={})

        versions = {name: installed[name] for name in full}
        progress.say(f"{', '.join(full)} bring the same files: {full[0]} has them from now on")
        tools.uninstall(full, progress)
        kept = full[0]
        install(f"{kept}=={versions[kept]}")
        without_screen = f"{kept}{_HEADLESS}"
        if without_screen in family.members and not _can_import(family.module, tools, context):
            tools.uninstall([kept], progress)
            install(f"{without_screen}=={versions[kept]}")
            kept = without_screen
        for name in full:
            if name != kept:
                stand_in(os.path.dirname(folders[name]), name, versions[name], kept)
        tools.forget_versions()
        installed = tools.installed()


def _can_import(module: str, tools: Installer, context: Context) -> bool:
    limit_s = context.bounded(IMPORT_S)
    told = probe.ask(
        tools.venv.python, answers.Imports, module, timeout_s=limit_s, cancelled=context.cancelled
    )
    return not told.reasons.get(module)


def stand_in(folder: str, name: str, version: str, kept: str) -> None:
    """Write metadata of the distribution *name*, which has no files and needs *kept*, into *folder*."""
    stem = f"{name.replace('-', '_')}-{version}.dist-info"
    os.makedirs(os.path.join(folder, stem), exist_ok=True)
    told = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Its files are those of {kept}.\n"
    )
    texts = {
        "METADATA": f"{told}Requires-Dist: {kept}\n",
        "INSTALLER": "provision\n",
        HELD_BY: f"{kept}\n",
    }
    record = f"{stem}/RECORD,,\n"
    for file, text in texts.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{stem}/{file},sha256={digest},{len(text.encode())}\n"
    for file, text in {**texts, "RECORD": record}.items():
        with open(os.path.join(folder, stem, file), "w", encoding="utf-8") as out:
            out.write(text)


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
