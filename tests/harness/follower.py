"""The follower as a subprocess over pipes, and what it sent."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from provision_agent.contract import frames
from provision_agent.host.detach import agent_argv


class Session:
    """One follow session and what it sent."""

    def __init__(
        self,
        files: list[dict[str, Any]],
        *,
        heartbeat_s: float = 0.2,
        before: tuple[str, ...] = (),
        workspace: Path | None = None,
    ) -> None:
        self.child = subprocess.Popen(
            [*before, *agent_argv("follow")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.child.stdin is not None
        request = {
            "nonce": "n",
            "heartbeat_s": heartbeat_s,
            "files": files,
            "workspace": None if workspace is None else str(workspace),
        }
        self.child.stdin.write(json.dumps(request).encode() + b"\n")
        self.child.stdin.flush()
        self._frames = self._read()

    def _read(self) -> Iterator[frames.Frame]:
        reader = frames.FrameReader("n")
        assert self.child.stdout is not None and self.child.stdin is not None
        while True:
            chunk = self.child.stdout.read1(65536)  # type: ignore[attr-defined]
            if not chunk:
                return
            for frame in reader.feed(chunk):
                if frame.kind == frames.BEAT:
                    self.child.stdin.write(b".")
                    self.child.stdin.flush()
                yield frame

    def next(self, kind: bytes) -> frames.Frame:
        return next(frame for frame in self._frames if frame.kind == kind)

    def data(self, length: int) -> tuple[bytes, int]:
        """The next *length* bytes, and the offset of the first."""
        got, first = b"", None
        while len(got) < length:
            frame = self.next(frames.DATA)
            first = frame.offset if first is None else first
            got += frame.payload
        return got, int(first or 0)

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait(timeout=5)
        assert self.child.stdout is not None and self.child.stderr is not None
        self.child.stdout.close()
        self.child.stderr.close()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
