"""Which files nobody writes any more: told by the kernel when their writers close them, else seen to stay as they are."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from typing import Dict, Iterable, Set, Tuple

Identity = Tuple[int, int]
"""Device and inode."""

_CLOSED, _MOVED_TO, _CREATE = 0x8, 0x80, 0x100
_EVENT = struct.Struct("iIII")


class Closings:
    """Watches folders; `descriptor` is readable when something was closed in one. Without inotify it tells nothing."""

    def __init__(self) -> None:
        self.descriptor = -1
        self._folders: Dict[int, str] = {}
        self._watched: Set[str] = set()
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self.descriptor = int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        except (OSError, AttributeError):
            pass

    def watch(self, folders: Iterable[str]) -> None:
        """Be told of files in *folders*, too."""
        for folder in folders:
            if self.descriptor >= 0 and folder not in self._watched:
                mask = _CLOSED | _MOVED_TO | _CREATE
                number = int(self._libc.inotify_add_watch(self.descriptor, os.fsencode(folder), mask))
                if number >= 0:
                    self._folders[number] = folder
                    self._watched.add(folder)

    def closed(self) -> Set[str]:
        """The paths that were closed by a writer, or renamed to, since the last time; and those that were made: look again."""
        found: Set[str] = set()
        while self.descriptor >= 0:
            try:
                told = os.read(self.descriptor, 65536)
            except BlockingIOError:
                break
            at = 0
            while at < len(told):
                watch, mask, _, length = _EVENT.unpack_from(told, at)
                at += _EVENT.size + length
                folder = self._folders.get(watch)
                if folder is not None and mask & (_CLOSED | _MOVED_TO):
                    name = told[at - length : at].rstrip(b"\0")
                    found.add(os.path.join(folder, os.fsdecode(name)))
        return found


def open_for_writing() -> Set[Identity]:
    """The files that a process of this user, or of anybody where that can be seen, has open to write."""
    found: Set[Identity] = set()
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue  # ended meanwhile, or another user's
        for number in descriptors:
            try:
                if not os.readlink(f"/proc/{pid}/fd/{number}").startswith("/"):
                    continue
                with open(f"/proc/{pid}/fdinfo/{number}") as about:
                    flags = re.search(r"flags:\s*(\d+)", about.read())
                if flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                    facts = os.stat(f"/proc/{pid}/fd/{number}")
                    found.add((facts.st_dev, facts.st_ino))
            except OSError:
                continue  # closed meanwhile
    return found
