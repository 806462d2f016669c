"""What there is to send: the files below the items of a request, and of a followed one only those that are finished."""

from __future__ import annotations

import os
import stat
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

from ..contract.file_messages import FILE, FOLDER, LINK, FileTold, SendItem, is_safe
from ..contract.plan_files import is_chosen
from .closing import Closings, open_for_writing

STILL_FOR_S = 1.0
"""A file that nobody announced must look the same twice, so far apart."""
PARTS = (".part", ".tmp", ".partial")
"""Names that end so, hidden ones, are on their way to another name."""


class Seen(NamedTuple):
    """One entry as it is now."""

    path: str
    """In its item; empty for an item that is a file."""
    here: str
    about: os.stat_result


class Looker:
    """Looks again and again. Every file that is told has a number of its own, also when it is told anew."""

    def __init__(self, items: "Tuple[SendItem, ...]", roots: Dict[str, str], *, follow: bool) -> None:
        self._items = items
        self._roots = roots
        self._follow = follow
        self._next = 0
        self._told: Dict[str, Tuple[int, int]] = {}
        """Size and time of each file when it was told last, by its path here."""
        self._before: Dict[str, Tuple[Tuple[int, int], float]] = {}
        self._announced: Set[str] = set()
        self.closings = Closings()
        self.paths: Dict[int, str] = {}
        """Where the files that were told lie, by number."""
        self.told: Dict[int, FileTold] = {}
        """As they were told."""
        self.odd: List[str] = []
        """What cannot be sent: devices, pipes, names that are no text."""

    def look(self, now: float) -> "List[FileTold]":
        """What is new since the last look: all of it at first.

        Args:
            now: Of a steady clock, in seconds.
        """
        self._announced |= self.closings.closed()
        found: List[FileTold] = []
        doubtful: List[Tuple[SendItem, Seen]] = []
        for item in self._items:
            for seen in self._below(item):
                if not stat.S_ISREG(seen.about.st_mode):
                    self._take_other(item, seen, found)
                    continue
                state = (seen.about.st_size, seen.about.st_mtime_ns)
                if self._told.get(seen.here) == state:
                    continue
                if not self._follow or seen.here in self._announced:
                    self._take(item, seen, found)
                elif self._is_still(seen.here, state, now):
                    doubtful.append((item, seen))
        if doubtful:
            written = open_for_writing()
            for item, seen in doubtful:
                if (seen.about.st_dev, seen.about.st_ino) not in written:
                    self._take(item, seen, found)
        return found

    def forget(self, number: int) -> None:
        """Tell the file again, when it is finished again."""
        path = self.paths.get(number)
        if path is not None:
            self._told.pop(path, None)
            self._before.pop(path, None)
            self._announced.discard(path)

    def settle(self, number: int) -> None:
        """Nobody asks for the file by this number any more: a file that is told anew for days has a new one each time."""
        self.paths.pop(number, None)
        self.told.pop(number, None)

    def _is_still(self, path: str, state: Tuple[int, int], now: float) -> bool:
        before = self._before.get(path)
        if before is None or before[0] != state:
            self._before[path] = (state, now)
            return False
        return now - before[1] >= STILL_FOR_S

    def _take(self, item: SendItem, seen: Seen, found: List[FileTold]) -> None:
        about = seen.about
        self._announced.discard(seen.here)
        self._before.pop(seen.here, None)
        self._told[seen.here] = (about.st_size, about.st_mtime_ns)
        found.append(self._named(item, seen, FILE))

    def _take_other(self, item: SendItem, seen: Seen, found: List[FileTold]) -> None:
        if self._follow or seen.here in self._told:
            return
        self._told[seen.here] = (0, 0)
        if stat.S_ISDIR(seen.about.st_mode):
            found.append(self._named(item, seen, FOLDER))
        elif stat.S_ISLNK(seen.about.st_mode):
            found.append(self._named(item, seen, LINK))
        else:
            self.odd.append(seen.path)

    def _named(self, item: SendItem, seen: Seen, kind: str) -> FileTold:
        about, number = seen.about, self._next
        self._next += 1
        self.paths[number] = seen.here
        target = os.readlink(seen.here) if kind == LINK else ""
        size = about.st_size if kind == FILE else 0
        mode = stat.S_IMODE(about.st_mode)
        told = FileTold(number, item.item, seen.path, kind, size, about.st_mtime_ns, mode, target)
        self.told[number] = told
        return told

    def _below(self, item: SendItem) -> Iterator[Seen]:
        root = self._roots[item.item]
        try:
            about = os.stat(root)
        except OSError:
            return  # it may come
        if stat.S_ISDIR(about.st_mode):
            yield from self._in(item, root, "")
        elif stat.S_ISREG(about.st_mode):
            yield Seen("", os.path.realpath(root), about)

    def _in(self, item: SendItem, root: str, folder: str) -> Iterator[Seen]:
        here = os.path.join(root, folder)
        if self._follow:
            self.closings.watch([here])
        try:
            with os.scandir(here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return
        for entry in found:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                about = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if not is_safe(path) or any("\ud800" <= each <= "\udfff" for each in path):
                if path not in self.odd:
                    self.odd.append(path)
                continue
            if folder == "" and entry.name == ".provision":
                continue
            if entry.name.startswith(".") and entry.name.endswith(PARTS):
                continue
            if stat.S_ISDIR(about.st_mode):
                if is_chosen(f"{path}/", (), item.exclude):  # else with all that is in it
                    if not item.include:
                        yield Seen(path, entry.path, about)
                    yield from self._in(item, root, path)
            elif is_chosen(path, item.include, item.exclude):
                yield Seen(path, entry.path, about)
