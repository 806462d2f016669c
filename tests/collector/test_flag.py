"""`Flag`: an `asyncio.Event` in what it does, at a fraction of its size."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provision_collector.instance import Flag

STEPS = st.lists(st.sampled_from(["set", "clear", "wait", "cancel", "turn"]), max_size=30)


async def course(event: asyncio.Event, steps: list[str]) -> list[object]:
    """What is seen of *event* after each of *steps*."""
    seen: list[object] = []
    waits: list[asyncio.Task[object]] = []
    for step in steps:
        if step in ("set", "clear"):
            getattr(event, step)()
        elif step == "wait":
            waits.append(asyncio.create_task(event.wait()))
        elif step == "cancel" and waits:
            waits[len(waits) // 2].cancel()
        else:
            await asyncio.sleep(0)
        seen.append((event.is_set(), [wait.done() for wait in waits]))
    event.set()
    seen += await asyncio.gather(*waits, return_exceptions=True)
    return [type(each) if isinstance(each, BaseException) else each for each in seen]


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_flag_does_what_an_event_does(steps: list[str]) -> None:
    assert asyncio.run(course(Flag(), steps)) == asyncio.run(course(asyncio.Event(), steps))


async def test_who_waits_is_woken_though_it_is_cleared_before_his_turn() -> None:
    flag = Flag()
    wait = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    flag.set()
    flag.clear()

    assert await wait
    assert repr(flag) == "<Flag unset, 0 wait>"


@pytest.mark.parametrize("kind, most_bytes", [(Flag, 300), (asyncio.Event, 2000)])
def test_a_flag_that_nobody_waits_for_is_small(kind: type[asyncio.Event], most_bytes: int) -> None:
    tracemalloc.start()
    try:
        kept = [kind() for _ in range(200)]
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used_bytes / len(kept) < most_bytes
