"""Wake up when one of a few files changes, without being woken by its neighbours.

A file's folder is watched for names that come and go, the file itself for bytes: a log that lies beside a growing
download costs nothing while it is quiet. Where inotify is missing or deaf, `wait_s` is short instead.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Dict, Optional, Set

POLL_S = 0.5
"""A safety net: some file systems lose events."""
POLL_WITHOUT_INOTIFY_S = 0.025
DEAF_AFTER = 3
"""So many changes in a row that a poll found and inotify did not tell."""

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_EVENT = struct.Struct("iIII")


class Inotify:
    """The watch of one session; `descriptor` becomes readable when there is something to look at."""

    def __init__(self) -> None:
        self.descriptor: Optional[int] = None
        self._folders: Dict[str, bool] = {}
        self._files: Dict[int, bool] = {}
        self._names: Set[bytes] = set()
        self._file_watches: Set[int] = set()
        self._missed = 0
        self._was_polled = False
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, AttributeError):
            return
        if descriptor >= 0:
            self.descriptor = descriptor

    @property
    def wait_s(self) -> float:
        """How long the follower may sleep when nothing wakes it."""
        is_deaf = self.descriptor is None or self._missed >= DEAF_AFTER or not all(self._files.values())
        return POLL_WITHOUT_INOTIFY_S if is_deaf else POLL_S

    def watch_folder(self, path: str) -> None:
        """Wake when the name *path* comes, goes or changes hands; again and again until its folder exists."""
        folder, name = os.path.split(path)
        if self.descriptor is None or self._folders.get(folder):
            return
        self._names.add(os.fsencode(name))
        mask = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
        self._folders[folder] = self._add(os.fsencode(folder or "."), mask) >= 0

    def watch_file(self, descriptor: int) -> None:
        """Wake when bytes are written to the open file *descriptor*, whatever its name is by now."""
        if self.descriptor is None:
            return
        watch = self._add(b"/proc/self/fd/%d" % descriptor, _MODIFY)
        self._files[descriptor] = watch >= 0
        self._file_watches.add(watch)

    def forget_file(self, descriptor: int) -> None:
        """The file is about to be closed; the kernel drops its watch with the inode."""
        self._files.pop(descriptor, None)

    def drain(self) -> bool:
        """Take what has been told; True when it concerns a file of ours."""
        assert self.descriptor is not None
        is_ours = False
        while True:
            try:
                told = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return is_ours
            at = 0
            while at < len(told):
                watch, _, _, length = _EVENT.unpack_from(told, at)
                at += _EVENT.size + length
                name = told[at - length : at].rstrip(b"\0")
                is_ours = is_ours or watch in self._file_watches or any(map(name.startswith, self._names))

    def slept(self, *, told: bool, by_time: bool) -> None:
        """How the last sleep ended: by an event, or because its time was over."""
        self._was_polled = by_time
        self._missed = 0 if told else self._missed

    def found(self, *, something: bool) -> None:
        """What was there after it: bytes that nobody announced mean that this file system does not tell."""
        self._missed += something and self._was_polled

    def _add(self, path: bytes, mask: int) -> int:
        return int(self._libc.inotify_add_watch(self.descriptor, path, mask))
