"""Which results of this instance have arrived where somebody fetches them, and which finished ones have not."""

from __future__ import annotations

import os
import time
from typing import Dict, Iterable, List

from ..contract.file_messages import FILE, items_of
from ..contract.plan_files import Output
from .closing import open_for_writing
from .looker import Looker
from .records import Arrived, Verified

_KEY = "\0home"


class HomeLog:
    """What whoever receives the results of *workspace* has said to have, by the path here. Each session has its own."""

    def __init__(self, workspace: str) -> None:
        self._arrived = Arrived(workspace, _KEY)

    def say(self, path: str, size_bytes: int, mtime_ns: int) -> None:
        """The file at *path* is home as it was then. A full disk only makes it come again."""
        try:
            self._arrived.put(path, Verified(size_bytes, mtime_ns, ""))
        except OSError:
            pass

    def has(self, path: str, size_bytes: int, mtime_ns: int) -> bool:
        """Whether the file at *path* is home as it is now."""
        return self._arrived.get(path) == Verified(size_bytes, mtime_ns, "")


def not_home(workspace: str, outputs: Iterable[Output]) -> List[str]:
    """The paths of finished results below *outputs* that nobody has fetched yet."""
    items = items_of(outputs)
    roots: Dict[str, str] = {
        item.item: os.path.normpath(os.path.join(workspace, item.path)) for item in items
    }
    looker, log = Looker(items, roots, follow=False), HomeLog(workspace)
    away = [
        looker.paths[told.n]
        for told in looker.look(time.monotonic())
        if told.kind == FILE and not log.has(looker.paths[told.n], told.size_bytes, told.mtime_ns)
    ]
    written = open_for_writing() if away else set()
    return [path for path in away if _identity(path) not in written]


def _identity(path: str) -> "tuple[int, int]":
    try:
        about = os.stat(path)
    except OSError:
        return (-1, -1)
    return about.st_dev, about.st_ino
