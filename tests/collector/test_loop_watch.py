"""How late the event loop was, as `/metrics` tells it."""

from __future__ import annotations

import asyncio
import time

from provision_collector.pool.server.figures import Figures
from provision_collector.pool.server.loop_watch import LoopWatch
from provision_collector.pool.server.metrics import exposition


def told(loop: LoopWatch) -> list[str]:
    text = exposition(
        going=(), ended={}, events={}, clients=0, loop=loop, figures=Figures(), instances={}
    ).decode()
    return [line for line in text.splitlines() if line.startswith("provision_event_loop_late")]


async def test_a_loop_that_was_held_up_is_counted_in_the_class_of_its_lateness() -> None:
    watch = LoopWatch()
    looking = asyncio.create_task(watch.run())
    await asyncio.sleep(0)

    time.sleep(0.4)  # whatever holds up an event loop
    while not sum(watch.counts):
        await asyncio.sleep(0.01)
    looking.cancel()

    assert sum(watch.counts[:6]) == 0, "0.3 s late, in the class of at most 0.5 s or a later one"
    assert watch.lately_s >= 0.29
    assert watch.late_s == watch.lately_s


def test_the_metrics_tell_the_classes_summed_up_and_the_worst_of_the_last_minute() -> None:
    now = 1000.0
    watch = LoopWatch(clock=lambda: now)
    for late_s in (0.001, 0.3, 0.02, 20.0):
        watch.note(late_s)
        now += 1

    lines = told(watch)

    assert 'provision_event_loop_late_seconds_bucket{le="0.005"} 1.0' in lines
    assert 'provision_event_loop_late_seconds_bucket{le="0.25"} 2.0' in lines
    assert 'provision_event_loop_late_seconds_bucket{le="0.5"} 3.0' in lines
    assert 'provision_event_loop_late_seconds_bucket{le="+Inf"} 4.0' in lines
    assert "provision_event_loop_late_seconds_count 4.0" in lines
    assert "provision_event_loop_late_seconds_sum 20.321" in lines
    assert "provision_event_loop_late_last_minute_seconds 20.0" in lines

    now += 30
    watch.note(0.2)
    now += 31
    assert "provision_event_loop_late_last_minute_seconds 0.2" in told(watch)
    now += 60
    assert "provision_event_loop_late_last_minute_seconds 0.0" in told(watch)
