"""The fold of a run's stream as it is kept in the database: a server that takes the run up reads that, not every event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog
from provision_agent.contract.events import JsonObject, read_event
from provision_agent.contract.parsing import ParseError, parse, read_object
from provision_agent.contract.status import RunState

from ...run.spec import HEEDED, ReadSoFar
from ..store.rows import Row
from ..store.store import Store
from ..store.streams import Snapshot
from .view import View, view_of

FORMAT = 1
MAX_BYTES = 64 << 20
log = structlog.get_logger()


@dataclass(frozen=True)
class _Kept:
    """What a view is beside the state of its agent."""

    format: int
    state: str
    agent_seq: int
    collector_seq: int
    contact: str | None
    reconnects: int
    secrets_needed: list[str]
    gaps: list[dict[str, object]]
    outcome: dict[str, object] | None
    broken: str | None
    own_warnings: list[str]
    folded: dict[str, object]


@dataclass(frozen=True)
class _Read:
    """How far a watcher had read."""

    read_to: int
    needed: list[str]
    sizes: dict[str, int] | None


def snapshot_of(view: View, so_far: ReadSoFar | None) -> Snapshot:
    """What is kept of *view*; *so_far* is what its watcher has read."""
    if so_far is not None:
        folded = so_far.state
    else:
        with view.run_state.lock:
            folded = view.run_state.to_json()
    kept = _Kept(
        format=FORMAT,
        state=view.state,
        agent_seq=view.agent_seq,
        collector_seq=view.collector_seq,
        contact=view.contact,
        reconnects=view.reconnects,
        secrets_needed=view.secrets_needed,
        gaps=[dict(gap) for gap in view.gaps],
        outcome=None if view.outcome is None else dict(view.outcome),
        broken=view.broken,
        own_warnings=view.own_warnings,
        folded=dict(folded),
    )
    watched = None
    if so_far is not None:
        sizes = None if so_far.sizes is None else dict(so_far.sizes)
        watched = json.dumps(vars(_Read(so_far.read_to, list(so_far.needed), sizes)))
    return Snapshot(view.last_event_id, json.dumps(vars(kept)), watched)


@dataclass(frozen=True)
class Taken:
    """A run's stream as it was found."""

    view: View
    so_far: ReadSoFar | None


async def taken_up(store: Store, row: Row, *, planned: Callable[[str], bool] | None = None) -> Taken:
    """The view of a run after all that was told of it, from what was kept and the events since then.

    Args:
        store: Where it is kept.
        row: The run.
        planned: Knows the keys of its plan's items, where it is taken up to be watched.
    """
    kept, since = await store.streams.snapshot(row)
    if kept is not None:
        try:
            return await asyncio.to_thread(_restored, row, kept, since, planned)
        except ParseError as error:  # another release kept it: the events are there
            log.warning("fold_not_read", run=row.run, why=str(error))
    told = await store.streams.all_of(row)
    return Taken(await asyncio.to_thread(view_of, row.run, (event_of(body) for _, body in told)), None)


def _restored(
    row: Row, kept: Snapshot, since: list[tuple[int, bytes]], planned: Callable[[str], bool] | None
) -> Taken:
    data = read_object(kept.view.encode(), max_bytes=MAX_BYTES, what="the fold of a run")
    found = parse(_Kept, data, "the fold of a run")
    if found.format != FORMAT:
        raise ParseError(f"format {found.format} of the fold of a run")
    view = View(row.run)
    state = RunState.from_json(found.folded, planned=planned)
    view.restore(state, agent_seq=found.agent_seq, last_event_id=kept.last_id)
    view.state, view.collector_seq, view.contact = found.state, found.collector_seq, found.contact
    view.reconnects, view.secrets_needed, view.gaps = found.reconnects, found.secrets_needed, list(found.gaps)
    view.outcome, view.broken, view.own_warnings = found.outcome, found.broken, found.own_warnings
    has_heeded = False
    for _, body in since:
        event = event_of(body)
        has_heeded = has_heeded or event.get("event") in HEEDED
        view.tell(event)
    so_far = _so_far(kept, found.folded)
    if so_far is not None and view.broken is None and not has_heeded:
        so_far = replace(so_far, state=view.run_state.to_json(), passed_seq=view.agent_seq)
    return Taken(view, so_far)


def _so_far(kept: Snapshot, folded: Mapping[str, object]) -> ReadSoFar | None:
    if kept.watched is None:
        return None
    read = parse(
        _Read, read_object(kept.watched.encode(), max_bytes=MAX_BYTES, what="what was read"), "what was read"
    )
    return ReadSoFar(read.read_to, folded, tuple(read.needed), read.sizes)


def event_of(line: bytes) -> JsonObject:
    """The event in *line*, an empty one for a line that is none."""
    try:
        return read_event(line) or {}
    except ParseError:
        return {}
