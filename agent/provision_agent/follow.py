"""Send the new bytes of files as they are written, from any offset, as frames on stdout.

Each byte of a log is sent once per connection, in order, through every rotation; the receiver's own file says where
to begin, so a lost connection costs nothing. Runs alone with `protocol`, `inotify` and `generations` on instances
without an agent. It ends when stdin ends or stays silent for `DEAD_MAN_S`: nothing of it is left on the instance.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional

from . import protocol
from .generations import Claim, Source, copy_of, is_edited, later, locate, written_before
from .inotify import POLL_S, Inotify

DEAD_MAN_S = 15.0
GONE_AFTER_S = 5.0
"""A file that was there and is not, when the receiver comes back, may be a volume that is just being mounted."""
BLIND_AFTER_S = 2.0
"""Not looked at for so long (the link was stalled), nobody knows what a truncated file had held."""
KEPT_OPEN = 2
"""So many finished files are watched for bytes that come too late."""


def follow_main(argv: List[str]) -> int:
    """``follow``: one JSON request line on stdin, then a byte for each heartbeat; ``?`` asks for a beat at once."""
    request = json.loads(_read_line(0))
    stream = Stream(0, 1)
    stream.write(protocol.magic(request["nonce"]))
    status = _run_status(request["workspace"]) if request.get("workspace") else dict
    return Follower(request, stream, status).follow()


class Stream:
    """stdin and stdout of a session. A write that the other side does not take within `DEAD_MAN_S` ends it."""

    def __init__(self, input_fd: int, output_fd: int) -> None:
        self._input = input_fd
        self._output = output_fd
        self._heard = time.monotonic()
        self.is_asked = False
        """The other side wants a beat now."""
        os.set_blocking(output_fd, False)
        os.set_blocking(input_fd, False)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._output, view) :]
            except BlockingIOError:
                readable, writable, _ = select.select([self._input], [self._output], [], 1.0)
                if (readable and not self._listen()) or (not writable and self._is_silent()):
                    sys.exit(0)

    def is_alive(self, wait_s: float, watch: Inotify) -> bool:
        """Wait for a change, a word or *wait_s*; False when the other side is gone."""
        end = time.monotonic() + wait_s
        while True:
            descriptors = [self._input] + ([] if watch.descriptor is None else [watch.descriptor])
            left_s = max(0.0, end - time.monotonic())
            readable, _, _ = select.select(descriptors, [], [], left_s)
            if self._input in readable and not self._listen():
                return False
            if self._is_silent():
                return False
            is_told = watch.descriptor in readable and watch.drain()
            if is_told or self.is_asked or not readable:
                watch.slept(told=is_told, by_time=not readable and wait_s > 0)
                return True

    def _listen(self) -> bool:
        try:
            heard = os.read(self._input, 4096)
        except BlockingIOError:
            return True
        self._heard = time.monotonic()
        self.is_asked = self.is_asked or b"?" in heard
        return bool(heard)

    def _is_silent(self) -> bool:
        return time.monotonic() - self._heard > DEAD_MAN_S


class Follower:
    """One session over one connection."""

    def __init__(
        self, request: Mapping[str, Any], stream: Stream, status: Callable[[], Dict[str, Any]]
    ) -> None:
        self._stream = stream
        self._status = status
        self._heartbeat_s = float(request.get("heartbeat_s", 2.0))
        self._watch = Inotify()
        self._files = [
            Followed(number, entry, stream, self._watch) for number, entry in enumerate(request["files"])
        ]

    def follow(self) -> int:
        """Send until the other side is gone; the exit status."""
        for file in self._files:
            file.begin()
        beat_at, last_status = 0.0, None
        while True:
            moved = [file.send() for file in self._files]
            has_moved = any(moved)
            self._watch.found(something=has_moved)
            status = self._status()
            now = time.monotonic()
            if status != last_status:
                self._stream.write(protocol.pack(protocol.STATUS, 0, status))
                last_status = status
            if now >= beat_at or self._stream.is_asked:
                self._stream.is_asked = False
                self._stream.write(protocol.pack(protocol.BEAT, 0, self._beat()))
                beat_at = now + self._heartbeat_s
            wait_s = 0.0 if has_moved else min(self._watch.wait_s, max(beat_at - now, 0.0))
            if not self._stream.is_alive(wait_s, self._watch):
                return 0

    def _beat(self) -> Dict[str, Any]:
        return {
            "sizes": [file.size() for file in self._files],
            "unread": [file.unread() for file in self._files],
            "late": [file.late_bytes() for file in self._files],
        }


class Followed:
    """One log: the file that is being sent, and those that come after it. Every further file is a new generation."""

    def __init__(self, number: int, entry: Mapping[str, Any], stream: Stream, watch: Inotify) -> None:
        self._number = number
        self._path = str(entry["path"])
        self._claim = Claim.of(entry)
        self._generation = int(entry.get("generation", 0))
        self._wants_history = bool(entry.get("history"))
        self._must_match = bool(entry.get("must_match"))
        self._stream = stream
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
        facts: Dict[str, Any] = {
            "resumed": is_first or self._current is not None,
            "edited": is_edited,
            "missing": self._current is None and not os.path.exists(self._path),
            "size": self.size(),
            "unread": self.unread(),
            "offset": self._claim.offset,
            "before_bytes": foreign_bytes,
            "at": time.time(),
            **({} if self._current is None else self._current.facts()),
        }
        self._stream.write(protocol.pack(protocol.RESUMED, self._number, facts))

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
        ours, foreign_bytes = written_before(self._path) if self._wants_history else ([], 0)
        chain = [Source.open(sibling.path) for sibling in ours] + [Source.open(self._path)]
        self._enter([source for source in chain if source is not None])
        return foreign_bytes

    def _resume(self) -> None:
        found = locate(self._path, self._claim)
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
        self._claim = Claim.of({})
        self._generation += 1
        source = Source.open(self._path)
        self._enter([] if source is None else [source])
        self._announce("gone", lost_bytes)
        return True

    def _refuse(self) -> bool:
        self._is_refused = True
        facts = {"resumed": False, "edited": True, "size": 0, "offset": self._claim.offset}
        self._stream.write(protocol.pack(protocol.RESUMED, self._number, facts))
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
        copy = copy_of(self._path, source)
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
        self._enter([Source(os.dup(source.descriptor), source.path), *chain])
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
            self._seen_bytes = self._current.offset

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
        head = protocol.data_head(self._number, self._generation, source.offset - len(data), len(data))
        self._stream.write(head + data)
        return True

    def _announce(self, why: str, lost_bytes: Optional[int]) -> None:
        facts: Dict[str, Any] = {
            "generation": self._generation,
            "why": why,
            "lost_bytes": lost_bytes,
            "at": time.time(),
            **({} if self._current is None else self._current.facts()),
        }
        self._stream.write(protocol.pack(protocol.GENERATION, self._number, facts))

    def _watch_folders(self) -> None:
        for path in dict.fromkeys((self._path, os.path.realpath(self._path))):
            self._watch.watch_folder(path)


def _run_status(workspace_root: str) -> Callable[[], Dict[str, Any]]:
    from .keeper import holder_facts
    from .workspace import Workspace

    workspace = Workspace(workspace_root)
    asked_at, answer = float("-inf"), {}  # type: float, Dict[str, Any]

    def status() -> Dict[str, Any]:
        nonlocal asked_at, answer
        if time.monotonic() - asked_at >= POLL_S:
            asked_at, answer = time.monotonic(), holder_facts(workspace.lock_holder())
        return answer

    return status


def _read_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            raise SystemExit(0)
        line += byte
    return line
