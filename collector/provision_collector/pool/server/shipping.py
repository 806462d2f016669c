"""The mirrors of a run, for the other servers: their bytes in the database, and how to go on with them elsewhere.

A server that takes a run over makes files that are as long as the mirrors were, with only their end in them: that is all
that the instance wants to see before it sends what follows. Logs are read from the database, never from such files.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from provision_agent.contract import version
from provision_agent.contract.parsing import ParseError, parse, read_object
from provision_agent.contract.plan_jobs import job_file

from ...mirror import Gap, MirrorState, Position
from ...run import registry
from ...run.registry import RunFiles, RunRecord
from ...storage import open_private, write_atomically
from ..store.rows import Row
from ..store.store import Store
from ..store.streams import CHUNK_BYTES, MirrorPlace, put_mirror

TAIL_BYTES = 1 << 16
"""So much of the end of a file proves that it is the same one."""
AT_ONCE_BYTES = 4 << 20
"""So much of one log is brought in one transaction."""
LOGS = ("core", "errors")


class Shipping:
    """Brings the mirrors of the run in *row* into a database that servers share."""

    def __init__(self, row: Row, store: Store) -> None:
        self._row = row
        self._store = store
        self._names = (*LOGS, *jobs_of(row.plan))
        self._lengths: dict[str, int] | None = None

    async def ship(self, files: RunFiles) -> None:
        """Bring what is new of the logs. Raises FencedError: another server watches the run now."""
        if self._lengths is None:
            self._lengths = {
                name: await self._store.streams.log_size(self._row, name) for name in self._names
            }
        is_moving = True
        while is_moving:
            found = await asyncio.to_thread(_news, files, self._lengths)
            for place, new in found:
                await self._store.writer.write(
                    work=partial(put_mirror, row=self._row, place=place, new=new), rid=self._row.rid
                )
                self._lengths[place.file] = place.length
            is_moving = bool(found)


def jobs_of(plan: Mapping[str, object]) -> tuple[str, ...]:
    """The names of the logs of a plan's jobs: asking the disk for them costs a look at all files of all runs."""
    jobs = plan.get("jobs")
    found = [job.get("name") for job in jobs if isinstance(job, dict)] if isinstance(jobs, list) else []
    return tuple(job_file(name) for name in found if isinstance(name, str))


def _news(files: RunFiles, lengths: Mapping[str, int]) -> list[tuple[MirrorPlace, dict[int, bytes]]]:
    """What each log has more than *lengths*, with the position of its mirror, which is the same before and after."""
    found = []
    for name in lengths:
        path = files.log(name)
        if not _is_longer(path, lengths[name]):
            continue
        before = _position(files, name)
        new = _read(path, lengths[name])
        if new and before == _position(files, name):
            end = max(new) + len(new[max(new)])
            found.append((MirrorPlace(name, end, json.dumps(asdict(before))), new))
    return found


def events_place(files: RunFiles, read_to: int) -> MirrorPlace | None:
    """The mirror of the events up to *read_to*; None while that cannot be said. May block."""
    position = _position(files, "events")
    begin = max(read_to - TAIL_BYTES, 0)
    try:
        with files.events.open("rb") as file:
            file.seek(begin)
            tail = file.read(read_to - begin)
    except OSError:
        return None
    if len(tail) < read_to - begin or position.base > read_to or position != _position(files, "events"):
        return None
    return MirrorPlace("events", read_to, json.dumps(asdict(position)), tail)


def _position(files: RunFiles, name: str) -> Position:
    return MirrorState(files.state).position(name) or Position()


def _is_longer(path: Path, length: int) -> bool:
    try:
        return path.stat().st_size > length
    except FileNotFoundError:
        return False


def _read(path: Path, begin: int) -> dict[int, bytes]:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(AT_ONCE_BYTES)
    except FileNotFoundError:
        return {}
    return {begin + at: data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)}


@dataclass(frozen=True)
class _Record:
    format: int
    files: dict[str, Position]
    gaps: list[Gap]


def make_here(
    row: Row, places: Mapping[str, MirrorPlace], logs_dir: Path, gaps: Sequence[Gap] = ()
) -> str | None:
    """Make the mirrors of a run that another server has watched; returns their stem. May block.

    Args:
        row: The run, with what that server remembered of it.
        places: How far its mirrors were.
        logs_dir: Where they go.
        gaps: What that server could not have.

    Returns:
        None when nothing is known of the run on its instance yet: it is begun as it would have been there.
    """
    record = _record_of(row)
    if record is None:
        return None
    files = RunFiles(str(logs_dir / f"provision_{record.run}_{record.started_unix}.{row.epoch}"))
    logs_dir.mkdir(parents=True, exist_ok=True)
    positions: dict[str, Position] = {}
    for name, place in places.items():
        if name not in (*LOGS, "events") and not name.startswith("job-"):
            continue
        try:
            told = parse(Position, read_object(place.position.encode(), max_bytes=1 << 16, what="a position"))
        except ParseError:
            continue
        _make(files.log(name), place)
        positions[name] = replace(told, length=0, crc32=0)  # nothing of it is sealed yet
    write_atomically(files.state, json.dumps(asdict(_Record(version.FORMAT, positions, list(gaps)))))
    registry.remember(replace(record, stem=files.stem, verdict=None))
    return files.stem


def _make(path: Path, place: MirrorPlace) -> None:
    descriptor = open_private(path, os.O_RDWR | os.O_TRUNC)
    try:
        os.ftruncate(descriptor, place.length)
        os.pwrite(descriptor, place.tail, place.length - len(place.tail))
    finally:
        os.close(descriptor)


def _record_of(row: Row) -> RunRecord | None:
    try:
        text = (row.record or "").encode()
        return parse(RunRecord, read_object(text, max_bytes=registry.MAX_RECORD_BYTES, what="a record"))
    except ParseError:
        return None


def record_text(row: Row) -> str | None:
    """What this machine remembers of the run, for a server that takes it over. May block."""
    record = registry.find(row.joined or row.run, row.instance)
    return json.dumps(asdict(record)) if record is not None else None
