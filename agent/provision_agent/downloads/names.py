"""Which item has which final name, so that no file ever takes another's place.

A name belongs to the first item that asks for it; the others wait until it has its file, and look whether it is
theirs too. When it gets none, the next one has the name.
"""

from __future__ import annotations

import os
import threading
from typing import Dict, List, Optional, Set

from ..contract.failures import Failure
from ..contract.plan import Download
from ..contract.redaction import public_url


class NameTaken(Failure):
    """Another item's file has the final name, and is not the same."""

    def __init__(
        self, path: str, holder: Download, item: Download, difference: str, *, is_there: bool = True
    ) -> None:
        mine, theirs = public_url(item.url), public_url(holder.url)
        there = f"; the one that is there is from {theirs}" if is_there else ""
        super().__init__(
            "conflict",
            f"{theirs} and {mine} both lead to `{path}`, and are not the same file ({difference}){there}",
            case="two_items_one_path",
        )
        self.holder = holder


class Names:
    """Hands out final names. Thread-safe; an item wants one name at a time."""

    def __init__(self, workspace: str) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._queues: Dict[str, List[Download]] = {}
        self._places: Dict[str, str] = {}
        self._landed: Set[str] = set()

    def want(self, path: str, item: Download) -> None:
        """*item* is to be at *path*, and nowhere else."""
        final = os.path.normpath(os.path.join(self._workspace, path))
        place = os.path.join(os.path.realpath(os.path.dirname(final)), os.path.basename(final))
        with self._lock:
            if self._places.get(item.key) != place:
                self._leave(item)
                self._places[item.key] = place
                self._queues.setdefault(place, []).append(item)

    def holder(self, item: Download) -> Optional[Download]:
        """The other item that has the name that *item* wants; None when it is the item's own."""
        with self._lock:
            first = self._queue(item)[:1]
            return first[0] if first and first[0].key != item.key else None

    def has_landed(self, item: Download) -> bool:
        """Is the file of *item* there?"""
        with self._lock:
            return item.key in self._landed

    def rivals(self, item: Download) -> List[str]:
        """The keys of all items that want the name of *item*, its own too."""
        with self._lock:
            return [each.key for each in self._queue(item)]

    def settle(self, item: Download, *, has_landed: bool) -> None:
        """*item* has its file, or will not get it: then its name is free."""
        with self._lock:
            if has_landed:
                self._landed.add(item.key)
            else:
                self._leave(item)

    def _queue(self, item: Download) -> List[Download]:
        return self._queues.get(self._places.get(item.key, ""), [])

    def _leave(self, item: Download) -> None:
        place = self._places.pop(item.key, None)
        if place is not None:
            self._queues[place] = [each for each in self._queues[place] if each.key != item.key]


def unsafe_path(item: Download, workspace: str) -> Optional[Failure]:
    """Why the item's path (or its substitute's) cannot be used: it leads out of the workspace."""
    for path in (item.path, item.substitute.path if item.substitute else ""):
        inside = path[len(workspace) :].lstrip("/") if path.startswith(workspace.rstrip("/") + "/") else path
        if inside.startswith("/") or ".." in inside.split("/") or "\0" in inside:
            return Failure("unsafe_path", f"`{path}` leads out of the workspace")
    return None


def final_path(path: str, name: Optional[str], why_none: str = "") -> str:
    """The final path of an item whose *path* may be a folder (it ends with ``/``), given the server's *name*.

    Args:
        why_none: Why the name that the server gives cannot be used.

    Raises:
        Failure: `unsafe_path`, where the server gives no name that can be used.
    """
    if path.endswith("/") and name is None:
        raise Failure(
            "unsafe_path",
            why_none or "the server gives no file name that can be used",
            case="no_file_name",
        )
    return path + (name or "") if path.endswith("/") else path
