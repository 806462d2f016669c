"""The follower that goes through stdin, on every python3 that is here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from provision_agent.contract import frames
from provision_collector.collect.sender import MODULES, follower_command, follower_program
from provision_collector.mirror import heartbeat_s

CANDIDATES = [
    shutil.which("python3"),
    *sorted(Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3")),
]


def version_of(python: object) -> tuple[int, int]:
    said = subprocess.run([str(python), "-V"], capture_output=True, text=True, timeout=20, check=False).stdout
    match = re.match(r"Python (\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


PYTHONS = {
    version_of(python): str(python) for python in CANDIDATES if python and version_of(python) >= (3, 6)
}


@pytest.mark.parametrize("version", sorted(PYTHONS), ids=lambda version: ".".join(map(str, version)))
def test_it_follows_on_this_python(version: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(PYTHONS[version])
    log = tmp_path / "a.log"
    log.write_bytes(b"hello\n")
    request = {"nonce": "n", "files": [{"path": str(log), "history": True}]}
    with subprocess.Popen(
        ["sh", "-c", follower_command()],
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(follower_program() + json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        reader, got = frames.FrameReader("n"), []
        while not any(frame.kind == frames.DATA for frame in got):
            got += reader.feed(child.stdout.read1(65536))  # type: ignore[attr-defined]
        child.stdin.close()

        assert child.wait(timeout=10) == 0
    assert [frame.payload for frame in got if frame.kind == frames.DATA] == [b"hello\n"]


def test_nothing_but_the_follower_is_sent() -> None:
    program = follower_program()
    head = json.loads(program[: program.index(b"\n")])

    assert [name for name, _ in head] == list(MODULES)
    assert sum(size for _, size in head) < 64 * 1024


def test_more_than_two_hundred_hosts_show_life_less_often() -> None:
    assert [heartbeat_s(hosts) for hosts in (1, 200, 201, 1000)] == [2.0, 2.0, 5.0, 5.0]
