"""A run's stream: numbered once and for all, whatever killed its writer, from wherever it is read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from provision_collector.pool.server.stream import (
    CHUNK_BYTES,
    StreamReader,
    StreamWriter,
    last_id_of,
    read_events,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "streams" / "run.jsonl"


def written(path: Path, *numbers: int) -> StreamWriter:
    writer = StreamWriter(path)
    for number in numbers:
        writer.append({"n": number})
    return writer


def read(path: Path, *, after: int = 0) -> list[tuple[int, int]]:
    reader = StreamReader(path, after=after)
    found = []
    while events := reader.read():
        found += [(number, json.loads(line)["n"]) for number, line in events]
    reader.close()
    return found


def test_a_torn_last_line_gives_its_number_to_the_next_event(path: Path) -> None:
    written(path, 1, 2).end()
    with path.open("ab") as file:
        file.write(b'{"n": 3, "torn')

    assert written(path, 4).last_id == 3
    assert read(path) == [(1, 1), (2, 2), (3, 4)]


def test_a_reader_goes_on_after_any_id(path: Path) -> None:
    count = 3 * CHUNK_BYTES // 10
    writer = written(path, *range(1, count + 1))

    for after in (0, 1, count // 2, count - 1, count, count + 5):
        assert read(path, after=after) == [(n, n) for n in range(after + 1, count + 1)]
    assert last_id_of(path) == writer.last_id == count


def test_an_event_longer_than_a_chunk_is_one_event(path: Path) -> None:
    StreamWriter(path).append({"n": 1, "text": "x" * (3 * CHUNK_BYTES)})

    assert read(path) == [(1, 1)]
    assert [event["n"] for event in read_events(path)] == [1]


def test_every_listener_hears_of_every_event_and_of_the_end(path: Path) -> None:
    writer = written(path)
    listeners = [asyncio.Event(), asyncio.Event()]
    writer.listeners.update(listeners)
    for change in (lambda: writer.append({"n": 1}), writer.end):
        change()
        assert all(listener.is_set() for listener in listeners)
        for listener in listeners:
            listener.clear()
    assert writer.is_over


def test_a_run_that_nobody_told_of_has_no_events(path: Path) -> None:
    assert list(read_events(path)) == []
