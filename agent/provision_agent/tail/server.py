"""Send the new bytes of files as they are written, from any offset, as frames on stdout.

Each byte of a log is sent once per connection, in order, through every rotation; the receiver's own file says where
to begin, so a lost connection costs nothing. Runs alone with `protocol`, `inotify`, `generations` and `followed` on
instances without an agent. It ends when stdin ends or stays silent for `DEAD_MAN_S`: nothing of it is left on the instance.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Callable, Dict, List, Optional

from ..contract import frames
from .inotify import POLL_S, Inotify
from .log_tail import Followed

DEAD_MAN_S = 15.0
MAX_REQUEST_BYTES = 4 << 20


def follow_main(argv: List[str]) -> int:
    """``follow``: one JSON request line on stdin, then a byte for each heartbeat; ``?`` asks for a beat at once."""
    try:
        request = frames.read_follow_request(_read_line(0))
    except frames.ProtocolError as error:
        sys.stderr.write(f"follow: {error}\n")
        return 1
    stream = Stream(0, 1)
    stream.write(frames.magic(request.nonce))
    status = _run_status(request.workspace) if request.workspace else dict
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
        """Wait for a change of a followed file, or a word of the other side.

        Args:
            wait_s: The longest wait.
            watch: Tells of changes.

        Returns:
            False when the other side is gone.
        """
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
            if is_told or self.is_asked or not readable or time.monotonic() >= end:
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
        self, request: frames.FollowRequest, stream: Stream, status: Callable[[], Dict[str, object]]
    ) -> None:
        self._stream = stream
        self._status = status
        self._heartbeat_s = request.heartbeat_s
        self._folders = (
            {os.path.dirname(entry.path) for entry in request.files} if request.workspace else set()
        )  # of a run: they were there when it began; another log's may be born with it
        self._watch = Inotify()
        self._files = [
            Followed(number, entry, stream.write, self._watch) for number, entry in enumerate(request.files)
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
                self._stream.write(frames.pack(frames.STATUS, 0, status))
                last_status = status
            if now >= beat_at or self._stream.is_asked:
                gone = None if has_moved else self._gone_folder()
                if gone is not None:
                    facts = {"cause": frames.FOLDER_GONE, "folder": gone}
                    self._stream.write(frames.pack(frames.ERROR, 0, facts))
                    return 0
                self._stream.is_asked = False
                self._stream.write(frames.pack(frames.BEAT, 0, self._beat()))
                beat_at = now + self._heartbeat_s
            wait_s = 0.0 if has_moved else min(self._watch.wait_s, max(beat_at - now, 0.0))
            if not self._stream.is_alive(wait_s, self._watch):
                return 0

    def _gone_folder(self) -> Optional[str]:
        return next((folder for folder in sorted(self._folders) if not os.path.isdir(folder)), None)

    def _beat(self) -> Dict[str, object]:
        return {
            "sizes": [file.size() for file in self._files],
            "unread": [file.unread() for file in self._files],
            "late": [file.late_bytes() for file in self._files],
        }


def _run_status(workspace_root: str) -> Callable[[], Dict[str, object]]:
    from ..run.keeper import holder_facts
    from ..run.workspace import Workspace

    workspace = Workspace(workspace_root)
    asked_at, answer = float("-inf"), {}  # type: float, Dict[str, object]

    def status() -> Dict[str, object]:
        nonlocal asked_at, answer
        if time.monotonic() - asked_at >= POLL_S:
            asked_at, answer = time.monotonic(), holder_facts(workspace.lock_holder())
        return answer

    return status


def _read_line(descriptor: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < MAX_REQUEST_BYTES:
        byte = os.read(descriptor, 1)
        if not byte:
            raise SystemExit(0)
        line += byte
    return bytes(line)
