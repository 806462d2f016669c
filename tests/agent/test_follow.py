"""The follower, driven as a subprocess over pipes: each byte once, from any offset; gone when nobody listens."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from provision_agent import protocol
from provision_agent.detach import agent_argv


class Session:
    """One follow session and what it sent."""

    def __init__(self, files: list[dict[str, Any]]) -> None:
        self.child = subprocess.Popen(
            agent_argv("follow"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.child.stdin is not None
        request = {"nonce": "n", "heartbeat_s": 0.2, "files": files}
        self.child.stdin.write(json.dumps(request).encode() + b"\n")
        self.child.stdin.flush()
        self._frames = self._read()

    def _read(self) -> Iterator[protocol.Frame]:
        reader = protocol.FrameReader("n")
        assert self.child.stdout is not None and self.child.stdin is not None
        while True:
            chunk = self.child.stdout.read1(65536)  # type: ignore[attr-defined]
            if not chunk:
                return
            for frame in reader.feed(chunk):
                if frame.kind == protocol.BEAT:
                    self.child.stdin.write(b".")
                    self.child.stdin.flush()
                yield frame

    def next(self, kind: bytes) -> protocol.Frame:
        return next(frame for frame in self._frames if frame.kind == kind)

    def data(self, length: int) -> tuple[bytes, int]:
        """The next *length* bytes, and the offset of the first."""
        got, first = b"", None
        while len(got) < length:
            frame = self.next(protocol.DATA)
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


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntwo\n")
    return path


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_what_is_there_comes_first_and_then_what_is_written(log: Path) -> None:
    session = Session([{"path": str(log)}])

    assert session.data(8) == (b"one\ntwo\n", 0)
    append(log, b"thr\xff")
    assert session.data(4) == (b"thr\xff", 8)
    session.close()


def test_it_goes_on_at_the_offset_that_the_other_side_proves(log: Path) -> None:
    proof = hashlib.sha256(b"one\n").hexdigest()
    session = Session([{"path": str(log), "offset": 4, "proof": proof}])

    assert session.next(protocol.RESUMED).json()["resumed"] is True
    assert session.data(4) == (b"two\n", 4)
    session.close()


def test_a_proof_that_does_not_fit_is_said(log: Path) -> None:
    session = Session([{"path": str(log), "offset": 4, "proof": hashlib.sha256(b"xxx\n").hexdigest()}])

    assert session.next(protocol.RESUMED).json()["resumed"] is False
    session.close()


def test_a_file_that_is_born_later_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "later.log"
    session = Session([{"path": str(path)}])
    session.next(protocol.BEAT)

    path.write_bytes(b"hello\n")

    assert session.data(6) == (b"hello\n", 0)
    session.close()


def test_a_truncated_file_begins_a_new_generation(log: Path) -> None:
    session = Session([{"path": str(log)}])
    session.data(8)

    log.write_bytes(b"new\n")

    assert session.next(protocol.GENERATION).json()["generation"] == 1
    frame = session.next(protocol.DATA)
    assert (frame.generation, frame.offset, frame.payload) == (1, 0, b"new\n")
    session.close()


def test_it_ends_when_the_other_side_is_gone(log: Path) -> None:
    session = Session([{"path": str(log)}])
    session.data(8)

    session.close()

    assert session.child.returncode == 0
