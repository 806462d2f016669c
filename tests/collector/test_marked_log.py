"""A log whose lines say how it ends: what came just now is looked at as it came, and says the same as the disk does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provision_collector.collect.collect import CollectOrder, LogToCollect, _Collection
from provision_collector.collect.marker_log import MarkedLog
from provision_collector.collect.markers import Markers
from provision_collector.instance import Instance

T = TypeVar("T")

MARKERS = Markers.of(["all done"], ["gone wrong"])


@pytest.fixture
def log(tmp_path: Path) -> Iterator[MarkedLog]:
    made = opened(tmp_path / "run.log")
    yield made
    made.mirror.close()


def opened(output: Path) -> MarkedLog:
    """A log that was seen for the first time just now, empty, and agreed to by its instance."""
    log = MarkedLog("/workspace/run.log", output, MARKERS, max_bytes=None)
    log.mirror.first_seen(0)
    log.is_proved = True
    return log


def came(log: MarkedLog, data: bytes) -> bytes:
    log.mirror.append(log.mirror.generation, log.mirror.offset, data)
    return data


def test_a_marker_in_what_came_just_now_is_found_without_the_disk(log: MarkedLog) -> None:
    assert log.matches(came(log, b"begun\n")) == []
    new = came(log, b"one step\nall done\n")
    with log.mirror.path.open("r+b") as file:
        file.truncate()  # nothing can be read

    assert log.is_next(new)
    assert [match.line for match in log.matches(new)] == [b"all done"]


def test_what_was_not_looked_at_before_is_read_from_the_disk(log: MarkedLog) -> None:
    came(log, b"gone wrong\n")
    new = came(log, b"all done\n")

    assert not log.is_next(new)
    assert [match.line for match in log.matches()] == [b"gone wrong", b"all done"]


PIECES = st.lists(st.sampled_from([b"\n", b"all done", b"gone", b" wrong", b"x", b"NEW"]), max_size=25)


@settings(max_examples=20, deadline=None)
@given(PIECES)
def test_however_it_comes_the_same_is_found_as_on_the_disk(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    logs = told, read = opened(folder / "told.log"), opened(folder / "read.log")
    for piece in pieces:
        if piece == b"NEW":
            for log in logs:
                log.mirror.begin_generation(log.mirror.generation + 1)
            continue
        came(read, piece)
        assert told.is_next(came(told, piece))
        assert told.matches(piece) == read.matches()
    for log in logs:
        log.mirror.close()


class CountingPool(ThreadPoolExecutor):
    def __init__(self) -> None:
        super().__init__(1)
        self.asked = 0

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> Future[T]:
        self.asked += 1
        return super().submit(fn, *args, **kwargs)


async def test_a_line_that_comes_asks_no_thread_for_anything(log: MarkedLog) -> None:
    asyncio.get_running_loop().set_default_executor(pool := CountingPool())
    order = CollectOrder((LogToCollect(log.remote, log.mirror.path),), MARKERS)
    collection = _Collection(Instance("127.0.0.1"), order, lambda _: None)
    collection._logs.append(log)
    for number in range(10):
        await collection.on_bytes(log.mirror, came(log, b"line %d\n" % number))

    assert pool.asked == 0
