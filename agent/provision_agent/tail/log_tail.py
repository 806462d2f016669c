"""One log, through all the files that it is and was: what comes next, and what cannot come any more.

Speaks in frames, by the function that it is given. The bytes of a generation come whole and in order; the next
generation begins only when nobody writes the one before any more, or when its bytes are gone, which is said.
"""

from __future__ import annotations

import os
import time
from typing import Callable, Dict, List, Optional

from ..contract import frames
from .inotify import Inotify
from .log_file import Compressed, Source, obstacle_at
from .rotation import Claim, beginning, copy_of, is_edited, later, locate

GONE_AFTER_S = 5.0
"""A file that was there and is not, when the receiver comes back, may be a volume that is just being mounted."""
BLIND_AFTER_S = 2.0
"""Not looked at for so long (the link was stalled), nobody knows what a truncated file had held."""
KEPT_OPEN = 2
"""So many finished files are watched for bytes that come too late."""


class Followed:
    """One log: the file that is being sent, and those that come after it. Every further file is a new generation."""

    def __init__(
        self, number: int, entry: frames.FollowedFile, write: Callable[[bytes], None], watch: Inotify
    ) -> None:
        self._number = number
        self._path = entry.path
        self._claim = Claim.of(entry)
        self._generation = entry.generation
        self._wants_history = entry.history
        self._must_match = entry.must_match
        self._write = write
        self._watch = watch
        self._current: Optional[Source] = None
        self._next: List[Source] = []
        self._left: List[Source] = []
        self._missing_since: Optional[float] = None
        self._is_refused = False
        self._seen_bytes = 0
        self._looked = time.monotonic()

    def begin(self) -> None:
        """Say how the log stands to what the receiver has."""
        self._watch_folders()
        is_first = self._claim.offset == 0 and self._claim.identity is None
        foreign_bytes = 0
        if is_first:
            foreign_bytes = self._begin_at_first_sight()
        else:
            self._resume()
        is_edited = not is_first and self._current is None and self._says_edited()
        self._is_refused = is_edited
        facts: Dict[str, object] = {
            "resumed": is_first or self._current is not None,
            "edited": is_edited,
            "missing": self._current is None and not os.path.exists(self._path),
            "size": self.size(),
            "unread": self.unread(),
            "offset": self._claim.offset,
            "before_bytes": foreign_bytes,
            "obstacle": "" if self._current is not None else obstacle_at(self._path),
            "at": time.time(),
            **({} if self._current is None else self._current.facts()),
        }
        self._write(frames.pack(frames.RESUMED, self._number, facts))

    def size(self) -> int:
        """Bytes in the file that is being sent; 0 while it is not there."""
        return 0 if self._current is None else self._current.size

    def unread(self) -> int:
        """Bytes that are on the disk and not yet sent, the later files' too."""
        if self._current is None:
            return 0
        return max(0, self.size() - self._current.offset) + sum(source.size for source in self._next)

    def late_bytes(self) -> int:
        """Bytes that somebody wrote to a rotated file after its successor had begun: they have no place any more."""
        return sum(max(0, source.size - source.offset) for source in self._left)

    def send(self) -> bool:
        """Send at most one chunk or begin one generation; True when there was something to do."""
        if self._is_refused:
            return False
        blind_s, self._looked = time.monotonic() - self._looked, time.monotonic()
        if self._current is None:
            return self._find()
        source = self._current
        data = source.read()
        self._seen_bytes = max(self._seen_bytes, source.size) if data is not None else self._seen_bytes
        if data is None:
            return self._take_rewritten(source, is_blind=blind_s > BLIND_AFTER_S)
        return self._send_data(source, data) or self._move_on(source)

    # -- where to begin

    def _begin_at_first_sight(self) -> int:
        if self._wants_history:
            chain, foreign_bytes = beginning(self._path)
        else:
            chain, foreign_bytes = list(filter(None, [Source.open(self._path)])), 0
        self._enter(chain)
        return foreign_bytes

    def _resume(self) -> None:
        found = locate(self._path, self._claim, lambda: self._show_life(self._claim.offset))
        if found is not None:
            self._seen_bytes = found.offset
            self._enter([found, *later(self._path, found)])

    def _says_edited(self) -> bool:
        return (self._must_match and os.path.exists(self._path)) or is_edited(self._path, self._claim)

    def _find(self) -> bool:
        """The log is not there, or it is not what the receiver had: wait for it, or give that up and begin anew."""
        now = time.monotonic()
        self._watch_folders()
        is_born = os.path.exists(self._path)
        has_bytes = self._claim.offset > 0 or self._claim.identity is not None
        if not has_bytes:
            source = Source.open(self._path) if is_born else None
            obstacle = obstacle_at(self._path) if is_born and source is None else ""
            if obstacle:
                return self._refuse(obstacle)
            if source is not None:
                self._enter([source])
                self._announce("born", 0)
            return source is not None
        self._resume()
        if self._current is not None:
            return True
        if is_born and self._says_edited():
            return self._refuse()
        self._missing_since = self._missing_since or now
        if not is_born and (self._must_match or now - self._missing_since < GONE_AFTER_S):
            return False
        return self._give_up_the_rest()

    def _give_up_the_rest(self) -> bool:
        """What the receiver lacks of the old file is nowhere: say how much, and go on with what is there."""
        known = self._claim.known_bytes
        lost_bytes = known - self._claim.offset if known is not None and known > self._claim.offset else None
        self._claim = Claim.of(frames.FollowedFile(self._path))
        self._generation += 1
        source = Source.open(self._path)
        self._enter([] if source is None else [source])
        self._announce("gone", lost_bytes)
        return True

    def _refuse(self, obstacle: str = "") -> bool:
        self._is_refused = True
        facts = {
            "resumed": False,
            "edited": not obstacle,
            "size": 0,
            "offset": self._claim.offset,
            "obstacle": obstacle,
        }
        self._write(frames.pack(frames.RESUMED, self._number, facts))
        return False

    # -- from one file to the next

    def _move_on(self, source: Source) -> bool:
        """*source* is at its end: go on with the next file once that holds something, for then nobody writes this one."""
        self._look_for_successors(source)
        if not any(each.size for each in self._next):
            return False
        rest = source.read()  # once more: what was written before the successor's first byte
        if rest is None:
            return self._take_rewritten(source, is_blind=False)
        if self._send_data(source, rest):
            return True
        self._leave(source)
        while len(self._next) > 1 and not self._next[0].size:
            self._leave(self._next.pop(0))
        self._generation += 1
        self._enter(self._next)
        self._announce("rotated", 0)
        return True

    def _look_for_successors(self, source: Source) -> None:
        try:
            facts = os.stat(self._path)
        except OSError:
            return
        known = [each.identity for each in (*self._left, source, *self._next)]
        newest = (self._next[-1] if self._next else source).identity
        if (facts.st_dev, facts.st_ino) == newest:
            return
        for found in later(self._path, source):
            if found.identity in known:
                found.close()
            else:
                self._next.append(found)
                self._watch.watch_file(found.descriptor)

    def _take_rewritten(self, source: Source, *, is_blind: bool) -> bool:
        """The file was truncated or written anew in its place: what is unread may be in a copy of it."""
        copy = copy_of(self._path, source, lambda: self._show_life(source.offset))
        if copy is not None:
            chain = [copy, *later(self._path, copy)]
            self._forget(source)
            self._enter(chain)
            return True
        unread = self._seen_bytes - source.offset
        lost_bytes = unread if unread > 0 else (None if is_blind else 0)
        identities = [each.identity for each in (*self._left, source)]
        chain = [each for each in later(self._path, source) if each.identity not in identities]
        self._generation += 1
        anew = [] if isinstance(source, Compressed) else [Source(os.dup(source.descriptor), source.path)]
        self._enter([*anew, *chain])
        self._forget(source)
        self._announce("truncated", lost_bytes)
        return True

    def _enter(self, chain: List[Source]) -> None:
        """Go on with the first of *chain*; the rest come after it."""
        self._watch_folders()
        for source in chain:
            self._watch.watch_file(source.descriptor)
        self._current, self._next = (chain[0], list(chain[1:])) if chain else (None, [])
        if self._current is not None:
            self._seen_bytes = max(self._current.offset, self._current.size)

    def _leave(self, source: Source) -> None:
        self._left.append(source)  # open, so that its inode is not used again under our eyes
        while len(self._left) > KEPT_OPEN:
            self._forget(self._left.pop(0))

    def _forget(self, source: Source) -> None:
        self._watch.forget_file(source.descriptor)
        source.close()

    # -- words

    def _send_data(self, source: Source, data: bytes) -> bool:
        if not data:
            return False
        head = frames.data_head(self._number, self._generation, source.offset - len(data), len(data))
        self._write(head + data)
        return True

    def _show_life(self, offset: int) -> None:
        """No bytes, in their place: the search in a large compressed file is no silence."""
        self._write(frames.data_head(self._number, self._generation, offset, 0))

    def _announce(self, why: str, lost_bytes: Optional[int]) -> None:
        facts: Dict[str, object] = {
            "generation": self._generation,
            "why": why,
            "lost_bytes": lost_bytes,
            "at": time.time(),
            **({} if self._current is None else self._current.facts()),
        }
        self._write(frames.pack(frames.GENERATION, self._number, facts))

    def _watch_folders(self) -> None:
        for path in dict.fromkeys((self._path, os.path.realpath(self._path))):
            self._watch.watch_folder(path)
