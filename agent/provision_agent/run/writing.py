"""Where a run may write: below its workspace, and where links of the user's own lead; never where a repository's do."""

from __future__ import annotations

import os
from typing import Dict, List, Protocol, Set

from ..contract.failures import Failure, disk_failure
from ..host.beneath import Folder, LeadsOutError, open_folder
from .context import Context
from .state import StateFile

KIND = "links"
"""Of the records that say which links a checkout brought."""
_KEPT = (".provision",)
_ALL = "all_below"
_PATHS = "paths"


class Place(Protocol):
    """Where things are written; a run's `Context` is one."""

    @property
    def workspace(self) -> str:
        """Its folder."""

    @property
    def state(self) -> StateFile:
        """What is remembered of it: which links somebody else brought."""


def folder_for(context: Place, path: str, *, make: bool = True) -> Folder:
    """The folder that the file *path* (absolute, or in the workspace) is to lie in, held open. Close it.

    Args:
        make: Make the folders that are not there.

    Raises:
        Failure: `unsafe_path` where a link that was brought leads out, `disk_full`, `read_only` or `conflict`.
    """
    return _reached(context, os.path.dirname(_inside(context, path)), path, make)


def folder_at(context: Place, path: str) -> Folder:
    """The folder *path* itself, made where it is not there, and held open. Close it. Raises as `folder_for`."""
    return _reached(context, _inside(context, path), path, True)


def _inside(context: Place, path: str) -> str:
    inside = os.path.relpath(path, context.workspace) if os.path.isabs(path) else path
    if ".." in inside.split("/"):
        raise Failure("unsafe_path", f"`{path}` leads out of the workspace")
    return inside


def _reached(context: Place, inside: str, path: str, make: bool) -> Folder:
    brought = _Brought(context.state, os.path.realpath(context.workspace))
    try:
        return open_folder(context.workspace, inside, is_brought=brought.is_one, kept=_KEPT, make=make)
    except LeadsOutError as error:
        message = f"`{path}` is not written: {error.strerror}, and that is not the user's own place for it"
        raise Failure("unsafe_path", message, case="leads_out") from None
    except OSError as error:
        raise disk_failure(error, path) from None


def remember_links(context: Context, repo: str, paths: Set[str], *, all_below: Set[str]) -> None:
    """Keep in mind the links that a checkout of the folder *repo* (in the workspace) brings, before it does.

    Args:
        paths: Of the links, in that folder.
        all_below: Folders in it of whose links each counts as brought, such as submodules.
    """
    before = context.state.get(KIND, repo) or {}
    known: Dict[str, List[str]] = {
        name: sorted(now | set(map(str, was if isinstance(was, list) else [])))
        for name, now, was in ((_PATHS, paths, before.get(_PATHS)), (_ALL, all_below, before.get(_ALL)))
    }
    record: Dict[str, object] = {**known, "path": repo}
    if record != before:
        context.state.put(KIND, repo, record)


def knows_links(context: Context, repo: str) -> bool:
    """Is it remembered which links the checkout of *repo* brought?"""
    return context.state.get(KIND, repo) is not None


class _Brought:
    """Which links came from outside."""

    def __init__(self, state: StateFile, workspace: str) -> None:
        self._state = state
        self._workspace = workspace

    def is_one(self, link: str) -> bool:
        """Is the link at this real path one of them?"""
        for record in self._state.all(KIND):
            folder = os.path.realpath(os.path.join(self._workspace, str(record.get("path"))))
            if not link.startswith(folder + "/"):
                continue
            inside = link[len(folder) + 1 :]
            paths, below = record.get(_PATHS), record.get(_ALL)
            if isinstance(paths, list) and inside in paths:
                return True
            if isinstance(below, list) and any(inside.startswith(f"{each}/") for each in below):
                return True
        return False
