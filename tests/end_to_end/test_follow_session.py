"""One follow session over a real sshd: how it ends when there is nothing left to follow, and when the other side lies."""

from __future__ import annotations

import asyncio
import resource
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from provision_collector.demo.instance import EmbeddedInstance
from provision_collector.instance import Connection, Instance, build_bundle, connect
from provision_collector.mirror import (
    FolderGoneError,
    FollowSession,
    LinkLostError,
    Listener,
    Mirror,
    MirrorState,
    Pace,
    pace,
)


@pytest.fixture
async def link(
    instance: EmbeddedInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Connection]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    connection = await connect(
        Instance(instance.host, port=instance.port, user=instance.user, key=str(instance.key_path))
    )
    yield connection
    connection.abort()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path / "core.log", MirrorState(tmp_path / "state.json"), "core")
    yield made
    made.close()


async def test_a_run_whose_folder_is_deleted_is_said_and_so_is_an_agent_that_went_with_it(
    instance: EmbeddedInstance, link: Connection, mirror: Mirror
) -> None:
    core = instance.workspace / ".provision" / "runs" / "a" / "core.log"
    agent = instance.workspace / ".provision" / "agent.pyz"
    core.parent.mkdir(parents=True)
    core.write_bytes(b"one\n")
    agent.write_bytes(build_bundle().data)

    def session() -> FollowSession:
        return FollowSession(
            [mirror], [str(core)], Listener(),
            command="exec " + shlex.join([sys.executable, "-I", "-S", str(agent), "follow"]),
            workspace=str(instance.workspace), heartbeat_s=2.0,
        )  # fmt: skip

    following = asyncio.create_task(session().run(link, done=asyncio.Event()))
    while mirror.length < 4 and not following.done():
        await asyncio.sleep(0.01)
    shutil.rmtree(instance.workspace / ".provision")

    with pytest.raises(FolderGoneError, match="gone from the instance") as gone:
        await following
    assert gone.value.cause == "folder-gone"
    with pytest.raises(FolderGoneError):
        await session().run(link, done=asyncio.Event())


LIAR = """
import json, os, struct, sys
nonce = json.loads(sys.stdin.readline())["nonce"]
def frame(kind, body, file=0, length=None):
    return struct.pack(">cBI", kind, file, len(body) if length is None else length) + body
def data(generation, offset, body):
    return frame(b"D", struct.pack(">IQ", generation, offset) + body)
def say(*frames):
    os.write(1, b"".join(frames))
os.write(1, b"\\n\\x02provision-follow " + nonce.encode() + b"\\n")
say(data(0, 0, b"as it should be"))
"""

LIES = {
    "a frame that is longer than any": ("impossible", 'say(frame(b"D", b"", length=1 << 31))\nwhile True: say(bytes(1 << 16))'),
    "a frame of an unknown kind": ("impossible", 'say(frame(b"?", b"{}"))'),
    "no JSON": ("broken JSON", 'say(frame(b"B", b"{"))'),
    "JSON that is nested without end": ("broken JSON", 'say(frame(b"B", b"[" * 500_000))'),
    "a number that is none": ("out of step", """say(frame(b"B", b'{"sizes": [1e999]}'))"""),
    "a file that nobody asked for": ("out of step", 'say(frame(b"D", bytes(12), file=9))'),
    "bytes that leave some out": ("does not follow", 'say(data(0, 1 << 40, b"later"))'),
    "bytes of a generation that never began": ("does not follow", 'say(data(7, 0, b"later"))'),
    "a generation out of order": ("does not follow", """say(frame(b"G", b'{"generation": 4294967296}'))"""),
    "an inode that is a novel": ("no file has", """say(frame(b"G", json.dumps({"generation": 1, "ino": "x" * 900_000}).encode()))"""),
    "a gap that is a novel": ("no file has", """say(frame(b"G", json.dumps({"generation": 1, "lost_bytes": "x" * 900_000}).encode()))"""),
    "silence": ("silent", "import time; time.sleep(60)"),
    "generations without end": ("without end", """for n in range(1, 300): say(frame(b"G", json.dumps({"generation": n}).encode()))"""),
}  # fmt: skip


FLOOD = """
import select
os.set_blocking(1, False)
piece, told, at = data(0, 15, b"x" * 65524), 0, 0
while told < 200 << 20:
    if not select.select([], [1], [], 2)[1]:
        open(WAITING, "w").write(str(told))  # nobody takes anything more
        break
    try:
        told += os.write(1, piece[at:])
        at = told % len(piece)
        if not at:
            piece = data(0, 15 + told // len(piece) * 65524, b"x" * 65524)
    except BlockingIOError:
        pass
"""


async def test_who_floods_has_to_wait_and_the_session_still_ends_when_it_is_told_to(
    link: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LEAST_SHARE", 1e-6)
    mirror, waiting, done = (
        Mirror(tmp_path / "events", MirrorState(tmp_path / "state.json"), "events"),
        tmp_path / "waiting",
        asyncio.Event(),
    )
    program = LIAR + f"WAITING = {str(waiting)!r}" + FLOOD + "\nsys.stdin.read()\n"
    with Pace(share=1e-6) as slow:
        session = FollowSession(
            [mirror], ["/x"], Listener(), command=shlex.join([sys.executable, "-c", program]), pace=slow
        )
        following = asyncio.create_task(session.run(link, done=done))
        while not (waiting.exists() and waiting.read_text()):
            assert not following.done()
            await asyncio.sleep(0.05)
        done.set()
        await asyncio.wait_for(following, 10)

    assert 500_000 < mirror.length < 700_000, "half a second's worth of events"
    assert int(waiting.read_text()) < 32 << 20, "the rest is left with the other side"
    mirror.close()


@pytest.mark.parametrize("lie", LIES)
async def test_whatever_the_other_side_says_ends_the_session_and_leaves_the_mirror_as_it_was(
    link: Connection, mirror: Mirror, tmp_path: Path, lie: str
) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, program = LIES[lie]
    program = LIAR + program + "\nsys.stdin.read()\n"
    session = FollowSession(
        [mirror], ["/x.log"], Listener(), command=shlex.join([sys.executable, "-c", program]), heartbeat_s=0.5
    )

    with pytest.raises(LinkLostError, match=found):
        await session.run(link, done=asyncio.Event())

    assert mirror.path.read_bytes() == b"as it should be"
    assert (tmp_path / "state.json").stat().st_size < 4096
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 40_000
