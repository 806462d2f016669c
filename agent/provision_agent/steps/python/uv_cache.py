"""Where uv unpacks wheels: on the file system of the environment, so that each file lies on a disk once, linked.

A workspace may lie on a network volume, on which a thousand small files take a minute. What has to be built (source
distributions, repositories) stays in the workspace's own cache: it is worth more than its time to write.
"""

from __future__ import annotations

import os
from typing import Iterator, Mapping, Optional

from ...host.folders import nearest_folder

WORKSPACE_CACHE = os.path.join(".provision", "cache", "uv")


def place(workspace: str, venv: str, told: Mapping[str, str]) -> str:
    """The cache of uv from which packages are linked into the environment at *venv*. Makes nothing.

    Args:
        told: The variables of this process: what they say of a cache is obeyed.
    """
    own = os.path.join(workspace, WORKSPACE_CACHE)
    if told.get("UV_CACHE_DIR"):
        return told["UV_CACHE_DIR"]
    for folder in (own, *_others(venv, told)):
        found = nearest_folder(folder)
        if _is_one_file_system(found, venv) and os.access(found, os.W_OK | os.X_OK):
            return folder
    return own


def second_copy(workspace: str, venv: str, told: Mapping[str, str]) -> Optional[str]:
    """Where everything lies a second time once it is installed in *venv*; None where files are links of each other."""
    folder = place(workspace, venv, told)
    is_linked = told.get("UV_LINK_MODE", "hardlink") != "copy"
    return None if is_linked and _is_one_file_system(folder, venv) else folder


def _others(venv: str, told: Mapping[str, str]) -> Iterator[str]:
    home = told.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if os.path.isabs(home):
        yield os.path.join(home, "provision", "uv")
    yield os.path.join(os.path.dirname(os.path.abspath(venv)), ".provision-cache", "uv")


def _is_one_file_system(folder: str, other: str) -> bool:
    try:
        return os.stat(nearest_folder(folder)).st_dev == os.stat(nearest_folder(other)).st_dev
    except OSError:
        return False
