"""What the instances say now of runs that this machine has seen no end of; all are asked at once, within a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from provision_agent.contract.messages import Json, StatusAnswer, StatusRequest, read_answer

from ..errors import ProvisionError
from .registry import RunRecord

ASK_WITHIN_S = 3.0
"""Whoever wants to know how it is going does not wait longer, for one run or for a thousand."""
ASKED_AT_ONCE = 64


@dataclass(frozen=True)
class News:
    """What came of asking for one run."""

    found: Json | None = None
    """The run as its instance has it."""
    why_not: str = ""
    """Why nothing is known: one sentence."""


async def news_of(records: Sequence[RunRecord], *, within_s: float = ASK_WITHIN_S) -> list[News]:
    """Ask the instance of each of *records*, in their order.

    Args:
        within_s: How long all of it may take, in seconds.
    """
    turns = asyncio.Semaphore(ASKED_AT_ONCE)
    asking = [asyncio.create_task(_ask(record, turns)) for record in records]
    if asking:
        _, late = await asyncio.wait(asking, timeout=within_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    silent = News(why_not=f"it did not answer within {within_s:.0f} s")
    return [silent if task.cancelled() else task.result() for task in asking]


async def _ask(record: RunRecord, turns: asyncio.Semaphore) -> News:
    from ..instance.query import ask  # with it comes asyncssh, which is not needed where no run is open

    instance = replace(record.to_instance(), boot_grace_s=0.0)
    request = StatusRequest(run=record.run, workspace=record.workspace or None)
    async with turns:
        try:
            answer = await ask(
                instance,
                "status",
                request,
                lambda data: read_answer(StatusAnswer, data),
                workspace=record.workspace or None,
                timeout_s=ASK_WITHIN_S,
            )
        except ProvisionError as error:
            return News(why_not=str(error).partition("\n")[0])
    for found in answer.runs:
        if found.get("run") == record.run:
            return News(found)
    return News(why_not="the instance has no such run any more")


def age_s(record: RunRecord) -> float:
    """How old the newest is that this machine has of the run: since its mirrors changed last, in seconds."""
    files = record.files
    times = [path.stat().st_mtime for path in (files.events, files.core, files.collector) if path.exists()]
    return max(0.0, time.time() - max(times, default=float(record.started_unix)))
