"""Environments of Python that are here already: of this tool, of the image, of conda, of the system.

Names and modes of files are read; no interpreter is started, nothing is imported.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Dict, Iterator, List, Optional

_SITES = ("lib/python3*/site-packages", "local/lib/python3*/dist-packages", "lib/python3*/dist-packages")
SYSTEM = ("/usr/local", "/usr")
"""Prefixes of interpreters that are no environment of their own; told only if they have torch."""


def interpreter_of(path: str) -> str:
    """The python of the environment, or below the prefix, at *path*."""
    python, python3 = (os.path.join(path, "bin", name) for name in ("python", "python3"))
    return python3 if not os.path.lexists(python) and os.path.lexists(python3) else python


def found(workspace: str) -> List[Dict[str, object]]:
    """What is there, in the order in which `auto` considers it: ``path python torch is_writable is_managed``.

    Args:
        workspace: Environments in it count too.
    """
    by_folder: Dict[str, Dict[str, object]] = {}
    own = os.path.join(workspace, "venv")
    for path in _places(workspace):
        if not os.path.exists(interpreter_of(path)):
            continue
        torch = torch_in(path)
        if path in SYSTEM and torch is None:
            continue
        place = os.path.realpath(path)
        path = own if place == os.path.realpath(own) else path  # by one name, whoever links to it
        fact: Dict[str, object] = {
            "path": path,
            "python": interpreter_of(path),
            "torch": torch,
            "is_writable": is_writable(path),
            "is_managed": is_managed(path),
        }
        by_folder.setdefault(place, fact)
    return list(by_folder.values())


def _places(workspace: str) -> Iterator[str]:
    home = os.path.expanduser("~")
    yield from filter(None, [os.environ.get("VIRTUAL_ENV", ""), "/venv/main"])
    yield os.path.join(workspace, "venv")
    yield from filter(None, [os.environ.get("CONDA_PREFIX", "")])
    yield from ("/opt/venv", "/opt/conda", *sorted(glob.glob("/opt/conda/envs/*")))
    yield from sorted(glob.glob("/opt/environments/python/*"))
    yield from (os.path.join(workspace, "ComfyUI", name) for name in ("venv", ".venv"))
    yield os.path.join(workspace, ".venv")
    yield from (os.path.join(home, name) for name in ("miniconda3", "anaconda3", "miniforge3", "venv"))
    yield from ("/opt/miniconda3", "/opt/miniforge3", *SYSTEM)


def sites(path: str) -> List[str]:
    """The folders in which the environment at *path* has its packages."""
    folders = [
        each for pattern in _SITES for each in sorted(glob.glob(os.path.join(glob.escape(path), pattern)))
    ]
    return [each for each in folders if os.path.isdir(each)]


def torch_in(path: str) -> Optional[str]:
    """The version of torch in the environment at *path*, by the name of its metadata; None: there is none."""
    for site in sites(path):
        names = glob.glob(os.path.join(glob.escape(site), "torch-[0-9]*.*-info"))
        told = [
            re.match(r"torch-([0-9][^-]*?)(-py[0-9.]+)?\.(dist|egg)-info$", os.path.basename(name))
            for name in names
        ]
        version = next((each[1] for each in told if each is not None), None)
        if version is not None:
            return version
    records = glob.glob(os.path.join(glob.escape(path), "conda-meta", "pytorch-[0-9]*.json"))
    return os.path.basename(records[0]).split("-")[1] if records else None


def is_writable(path: str) -> bool:
    """May packages be put into the environment at *path*? Not where nobody may write, even if root could."""
    folders = sites(path)[:1]
    return all(os.access(each, os.W_OK) and bool(os.stat(each).st_mode & 0o222) for each in folders)


def is_managed(path: str) -> bool:
    """Does the system's own package manager claim the interpreter at *path* (PEP 668)?"""
    return bool(glob.glob(os.path.join(glob.escape(path), "lib", "python3*", "EXTERNALLY-MANAGED")))
