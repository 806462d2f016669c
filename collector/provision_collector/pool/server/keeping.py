"""What another server needs to go on with a run, kept in the database that they share while the run is watched here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from provision_agent.contract.events import Event, JsonObject, parse_event
from provision_agent.contract.parsing import ParseError

from ...instance import Instance, host_keys
from ...mirror import Gap
from ...run.registry import RunFiles
from ...run.spec import ReadSoFar
from ..scorecard import TELLING, Entry, entry_of
from ..store.database import Work
from ..store.rows import Row
from ..store.store import Store
from ..store.streams import put_mirror
from .kept import Taken, event_of
from .rules import Rules
from .shipping import TAIL_BYTES, Shipping, events_place, make_here, record_text
from .view import View

SHIP_EVERY_S = 1.0
SUMMARY_EVERY_S = 5.0


class Keeping:
    """Keeps what belongs to the run in *row*; *view* is what was told of it."""

    def __init__(self, row: Row, store: Store, view: View) -> None:
        self._row = row
        self._store = store
        self._view = view
        self._shipping = Shipping(row, store)
        self._is_key_shared = False
        self._counted_id = 0
        self._counted_at = time.monotonic()

    async def keep(self, files: Callable[[], RunFiles | None]) -> None:
        """Keep everything, every second, until cancelled. Raises FencedError: another server watches the run now."""
        while True:
            await self.once(files())
            await asyncio.sleep(SHIP_EVERY_S)

    async def once(self, files: RunFiles | None) -> None:
        """Keep what is new."""
        if not self._is_key_shared and self._view.contact == "connected":
            self._is_key_shared = await share_host_key(self._row.instance, self._store)
        if files is None:
            return
        if self._row.record is None and (text := await asyncio.to_thread(record_text, self._row)):
            await self._store.update(self._row, record=text)
        await self._shipping.ship(files)
        is_due = time.monotonic() - self._counted_at >= SUMMARY_EVERY_S
        if is_due and self._counted_id != self._view.last_event_id:
            self._counted_at, self._counted_id = time.monotonic(), self._view.last_event_id
            summary = await asyncio.to_thread(self._view.summary, time.time())
            await self._store.update(self._row, summary=summary)

    async def finish(self, files: RunFiles | None, outcome: JsonObject) -> None:
        """Keep the last bytes of a run that has its *outcome*, and what it says about the machine."""
        await self.once(files)
        told = await self._store.streams.all_of(self._row)
        entry = await asyncio.to_thread(_entry, self._row.instance, [body for _, body in told], outcome)
        if entry is not None:
            await self._store.machines.score(entry)

    async def with_fold(self, so_far: ReadSoFar | None) -> Work[None] | None:
        """What is kept together with a fold: the end of the events' mirror."""
        if so_far is None or self._row.stem is None:
            return None
        place = await asyncio.to_thread(events_place, RunFiles(self._row.stem), so_far.read_to)
        return None if place is None else partial(put_mirror, row=self._row, place=place, new={})


async def found_here(row: Row, taken: Taken, store: Store, rules: Rules) -> Taken:
    """*taken* with what is on this machine: where another server has watched the run, its mirrors are made here first."""
    home = store.leases.home
    if not store.is_shared or row.home in (None, home):
        is_there = await asyncio.to_thread(_has_read, row, taken.so_far)
        return taken if is_there else Taken(taken.view, None)
    await take_host_key(row.instance, store)
    places = await store.streams.mirror_places(row, TAIL_BYTES)
    so_far, at = taken.so_far, places.get("events")
    if so_far is None or at is None or at.length != so_far.read_to:
        so_far = None
        places.pop("events", None)
    gaps = [Gap(str(gap.get("file")), _number(gap.get("bytes"))) for gap in taken.view.gaps]
    stem = await asyncio.to_thread(make_here, row, places, rules.logs_dir, gaps)
    await store.update(row, stem=stem, home=home)
    return Taken(taken.view, so_far if stem is not None else None)


def _entry(instance: Instance, told: list[bytes], outcome: JsonObject) -> Entry | None:
    events: list[Event] = []
    for body in told:
        event = event_of(body)
        if event.get("event") in TELLING and event.get("from") != "collector":
            with suppress(ParseError):
                events.append(parse_event(event))
    return entry_of(instance, events, outcome)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _has_read(row: Row, so_far: ReadSoFar | None) -> bool:
    if so_far is None or row.stem is None:
        return False
    try:
        return RunFiles(row.stem).events.stat().st_size >= so_far.read_to
    except OSError:
        return False


async def share_host_key(instance: Instance, store: Store) -> bool:
    """Tell the other servers which key this one trusts, so that none of them trusts on first use again; False: none yet."""
    keys = await asyncio.to_thread(host_keys.kept_of, instance)
    if keys:
        await store.machines.trust(keys)
    return bool(keys)


async def take_host_key(instance: Instance, store: Store) -> None:
    """Trust the key that another server has seen, where this one has seen none."""
    entry = host_keys.name_of(instance)
    for key in await store.machines.trusted(entry):
        await asyncio.to_thread(host_keys.take_over, instance, key)


async def reached_from_here(instance: Instance, store: Store, rules: Rules) -> Instance:
    """An instance that another server may have written down, as this one reaches it: with its own key, and the known host key."""
    if store.is_shared:
        await take_host_key(instance, store)
    return await asyncio.to_thread(rules.with_key_here, instance)
