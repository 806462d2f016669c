"""Files over a session, on the agent's side: names that lead out, parts that are continued, bytes that are damaged."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from provision_agent.contract import file_frames as wire
from provision_agent.contract.file_frames import FileFrame, FileFrameReader
from provision_agent.contract.file_messages import (
    FILE,
    AllTold,
    CompleteFile,
    FilesTold,
    FileTold,
    ItemTold,
    SendItem,
    is_safe,
    link_leads_out,
)
from provision_agent.contract.frames import ProtocolError
from provision_agent.contract.pacing import LEAST_BYTES, LONG_S, Pacer
from provision_agent.contract.parsing import ParseError, parse, to_json
from provision_agent.contract.plan_files import is_chosen
from provision_agent.files.landing import anywhere
from provision_agent.files.looker import Looker
from provision_agent.files.progress import Nobody
from provision_agent.files.receiver import Place, Receiver
from provision_agent.files.records import Arrived
from provision_agent.files.sender import Sender
from provision_agent.files.wire import Wire


@pytest.mark.parametrize(
    "path", ["", "..", "a/../b", "/etc/x", "a//b", "./a", "a/", "a\0b", "x" * 256, "a/" * 3000]
)
def test_a_path_that_leads_out_or_cannot_be_is_no_path(path: str) -> None:
    assert not is_safe(path)
    if path:
        with pytest.raises(ParseError):
            parse(FileTold, {"n": 0, "item": "0", "path": path})


@pytest.mark.parametrize(
    ("path", "target", "leads_out"),
    [
        ("a", "b", False), ("a", "b/c", False), ("d/a", "../b", False), ("d/e/a", "../../b", False),
        ("a", "../b", True), ("d/a", "../../b", True), ("a", "/etc/passwd", True), ("a", "", True),
        ("d/a", "x/../../..", True), ("a", "b/..", True), ("a", "x\0y", True),
    ],
)  # fmt: skip
def test_a_link_stays_inside_even_where_a_name_on_its_way_is_a_link(
    path: str, target: str, leads_out: bool
) -> None:
    assert link_leads_out(path, target) is leads_out


def test_patterns_mean_paths_names_and_whole_folders() -> None:
    assert is_chosen("a/b.bin", (), ())
    assert is_chosen("a/b.bin", ("*.bin",), ("*.tmp",))
    assert not is_chosen("a/b.bin", ("*.safetensors",), ())
    assert not is_chosen("x/cache/b.bin", (), ("cache/",))
    assert not is_chosen("cache/deep/b.bin", (), ("cache/",))
    assert is_chosen("cache", (), ("cache/",))


class Other:
    """The sending side of a session with a receiver."""

    def __init__(self, folder: Path, *, is_folder: bool = True, arrived: Any = None) -> None:
        self.to_agent, self.from_agent = os.pipe(), os.pipe()
        places = {"0": Place(str(folder), is_folder, anywhere, arrived)}
        self.receiver = Receiver(Wire(self.to_agent[0], self.from_agent[1]), places, Nobody())
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.answers = Wire(self.from_agent[0], -1).frames()

    def _run(self) -> None:
        try:
            self.receiver.run()
        except BaseException as error:
            self.error = error

    def send(self, kind: bytes, payload: object) -> None:
        os.write(self.to_agent[1], wire.pack(kind, to_json(payload)))

    def names(self, *files: FileTold) -> None:
        self.send(wire.LISTED, FilesTold(files))
        self.send(wire.ALL_LISTED, AllTold((ItemTold("0", len(files)),)))

    def data(self, number: int, offset: int, data: bytes) -> None:
        os.write(self.to_agent[1], wire.data_head(number, offset, len(data)) + data)

    def next(self, kind: bytes) -> dict[str, Any]:
        """The next answer of *kind*."""
        frame: FileFrame = next(frame for frame in self.answers if frame.kind == kind)
        return frame.json()

    def settled(self) -> list[dict[str, Any]]:
        found = self.next(wire.SETTLED)["settled"]
        assert isinstance(found, list)
        return found

    def end(self) -> None:
        os.close(self.to_agent[1])
        self.thread.join(timeout=10)


def complete(number: int, content: bytes, mtime_ns: int = 5) -> CompleteFile:
    return CompleteFile(number, hashlib.sha256(content).hexdigest(), len(content), mtime_ns)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "there").mkdir()
    yield tmp_path / "there"


def test_a_file_gets_its_final_name_only_when_its_hash_is_the_senders(folder: Path) -> None:
    other = Other(folder)
    other.names(FileTold(0, "0", "a.bin", size_bytes=3, mode=0o640))
    assert other.next(wire.WANTED)["wanted"][0]["offset"] == 0
    other.data(0, 0, b"bad")
    other.send(wire.COMPLETE, complete(0, b"abc"))
    assert other.settled()[0]["state"] == "again"
    assert not (folder / "a.bin").exists()
    other.data(0, 0, b"abc")
    other.send(wire.COMPLETE, complete(0, b"abc"))

    assert other.settled()[0]["state"] == "ok"
    assert (folder / "a.bin").read_bytes() == b"abc"
    assert (folder / "a.bin").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(folder)) == ["a.bin"]
    other.end()


def test_a_cut_leaves_a_part_that_is_continued_at_its_last_byte(folder: Path) -> None:
    first = Other(folder)
    first.names(FileTold(0, "0", "sub/a.bin", size_bytes=10))
    first.next(wire.WANTED)
    first.data(0, 0, b"01234")
    assert first.next(wire.TAKEN)["bytes"] == 5
    first.end()
    assert not (folder / "sub/a.bin").exists()

    other = Other(folder)
    other.names(FileTold(0, "0", "sub/a.bin", size_bytes=10))
    [wanted] = other.next(wire.WANTED)["wanted"]
    assert (wanted["offset"], wanted["proof"]) == (5, hashlib.sha256(b"01234").hexdigest())
    other.data(0, 5, b"56789")
    other.send(wire.COMPLETE, complete(0, b"0123456789"))

    assert other.settled()[0]["state"] == "ok"
    assert (folder / "sub/a.bin").read_bytes() == b"0123456789"
    other.end()


def test_holes_are_not_sent_and_are_there(folder: Path) -> None:
    content = bytes(1 << 20) + b"x" + bytes(1 << 20)
    other = Other(folder)
    other.names(FileTold(0, "0", "a", size_bytes=len(content)))
    other.next(wire.WANTED)
    other.data(0, 1 << 20, b"x")
    other.send(wire.COMPLETE, complete(0, content))

    assert other.settled()[0]["state"] == "ok"
    assert (folder / "a").read_bytes() == content
    assert (folder / "a").stat().st_blocks * 512 < 1 << 20
    other.end()


def test_what_is_there_is_looked_at_by_size_and_time_and_then_by_hash(folder: Path, tmp_path: Path) -> None:
    (folder / "a").write_bytes(b"abc")
    (tmp_path / ".provision").mkdir()
    arrived = Arrived(str(tmp_path), "key")
    told = FileTold(0, "0", "a", size_bytes=3, mtime_ns=7, mode=0o600)
    other = Other(folder, arrived=arrived)
    other.names(told)
    [wanted] = other.next(wire.WANTED)["wanted"]
    assert wanted["has"] == hashlib.sha256(b"abc").hexdigest()
    same = complete(0, b"abc", mtime_ns=7)
    other.send(wire.COMPLETE, CompleteFile(0, same.sha256, 3, 7, is_same=True))
    assert other.settled()[0]["state"] == "have"
    other.end()

    again = Other(folder, arrived=Arrived(str(tmp_path), "key"))
    again.names(told)
    assert again.settled()[0]["state"] == "have"  # nobody was asked for a hash
    assert (folder / "a").stat().st_mtime_ns == 7
    again.end()


def test_a_file_that_changed_while_it_was_sent_leaves_nothing(folder: Path) -> None:
    other = Other(folder)
    other.names(FileTold(0, "0", "a", size_bytes=3))
    other.next(wire.WANTED)
    other.data(0, 0, b"ab")
    other.send(wire.COMPLETE, CompleteFile(0, changed=True))
    other.data(0, 0, b"longer")
    other.send(wire.COMPLETE, complete(0, b"longer"))

    assert other.settled()[0]["state"] == "ok"
    assert (folder / "a").read_bytes() == b"longer"
    other.end()


def test_what_stands_in_the_way_fails_by_name_and_the_rest_comes(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "file").write_text("")
    other = Other(folder)
    other.names(
        FileTold(0, "0", "a"),
        FileTold(1, "0", "file/below"),
        FileTold(2, "0", "out", kind="link", target="../../x"),
        FileTold(3, "0", "in", kind="link", target="b"),
        FileTold(4, "0", "b", size_bytes=1),
    )
    settled = {each["n"]: each for each in other.settled()}
    assert {n: each["state"] for n, each in settled.items()} == {
        0: "failed",
        1: "failed",
        2: "failed",
        3: "ok",
    }
    assert settled[2]["class"] == "unsafe_path"
    other.data(4, 0, b"b")
    other.send(wire.COMPLETE, complete(4, b"b"))
    assert other.settled()[0]["state"] == "ok"
    assert (folder / "in").read_bytes() == b"b"
    other.end()


@pytest.mark.parametrize("number", [1, 7])
def test_bytes_of_a_file_that_nobody_wants_end_the_session(folder: Path, number: int) -> None:
    other = Other(folder)
    other.send(wire.LISTED, FilesTold((FileTold(0, "0", "a"), FileTold(1, "another", "b"))))
    other.send(wire.ALL_LISTED, AllTold())
    other.next(wire.WANTED)
    other.data(number, 0, b"x")
    while other.thread.is_alive():
        os.write(other.to_agent[1], wire.pack(wire.BEAT, {}))
        other.thread.join(timeout=0.05)

    assert isinstance(other.error, ProtocolError)
    assert os.listdir(folder) == []


def test_a_listing_of_the_longest_names_is_sent_in_frames_that_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path.joinpath("all", *["ü" * 100] * 15)
    folder.mkdir(parents=True)
    for number in range(150):
        (folder / str(number)).touch()
    to_agent, from_agent = os.pipe(), os.pipe()
    looker = Looker((SendItem("0", "all"),), {"0": str(tmp_path / "all")}, follow=False)
    sender = Sender(Wire(to_agent[0], from_agent[1]), looker, follow=False)
    thread = threading.Thread(target=sender.run, daemon=True)
    thread.start()

    reader = FileFrameReader("")
    frames: list[FileFrame] = []
    assert not list(reader.feed(wire.magic("")))
    while not frames or frames[-1].kind != wire.ALL_LISTED:
        frames += reader.feed(os.read(from_agent[0], 1 << 16))
    os.close(to_agent[1])
    thread.join(timeout=10)

    told = [each for frame in frames[:-1] for each in parse(FilesTold, frame.json()).files]
    assert {Path(each.path).name for each in told if each.kind == FILE} == {str(n) for n in range(150)}
    for descriptor in (to_agent[0], *from_agent):
        os.close(descriptor)


def test_the_window_shrinks_while_bytes_wait_and_grows_while_they_do_not() -> None:
    pacer, now = Pacer(), 0.0
    first = pacer.window_bytes

    def round_trip(took_s: float) -> None:
        nonlocal now
        while pacer.has_room(1 << 16):
            pacer.sent(1 << 16, now)
        now += took_s
        pacer.taken(pacer.sent_bytes, now)

    for _ in range(5):
        round_trip(0.02)
    grown = pacer.window_bytes
    assert grown > first
    for _ in range(40):
        round_trip(0.02 + LONG_S + 0.1)
    assert pacer.window_bytes == LEAST_BYTES
    assert pacer.has_room(1 << 30)  # alone, even a chunk beyond the window goes
    pacer.taken(1 << 60, now)  # who claims more than was sent is not believed
    assert pacer.taken_bytes <= pacer.sent_bytes
