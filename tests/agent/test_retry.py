"""One schedule of attempts, and its two drivers."""

from __future__ import annotations

import asyncio
import threading

import pytest
from provision_agent.contract import retry
from provision_agent.contract.retry import Attempts, Schedule


class Trouble(Exception):
    """What the work of these tests fails with."""


def half() -> float:
    return 0.5


def failing(times: int):
    """Work that fails *times* times, then gives the number of its calls."""
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise Trouble(len(calls))
        return len(calls)

    return work


def driven(work, schedule: Schedule, *, stop_after: int = 99, may_help=lambda error: True):
    """Run *work* with a thread's driver: the result or the last error, and the waits."""
    waits: list[float] = []

    def wait(wait_s: float) -> bool:
        waits.append(wait_s)
        return len(waits) >= stop_after

    try:
        result: object = retry.call(
            work,
            Attempts(schedule, rand=half),
            errors=Trouble,
            wait=wait,
            may_help=may_help,
            before_wait=lambda error, wait_s: None,
        )
    except Trouble as error:
        result = error.args[0]
    return result, waits


def test_waits_double_up_to_their_cap_and_are_the_same_for_the_same_random_numbers():
    schedule = Schedule(attempts=None, base_s=1.0, cap_s=4.0, least_s=0.5)

    assert [schedule.wait_s(n, rand=half) for n in (1, 2, 3, 4, 99)] == [1.0, 1.5, 2.5, 2.5, 2.5]


def test_a_wait_that_was_asked_for_replaces_the_schedules_own():
    assert Schedule(attempts=3, least_s=1.0).wait_s(1, asked_s=7.0) == 7.0


@pytest.mark.parametrize(("passed_s", "wait_s"), [(0.0, 2.0), (9.0, 1.0), (10.0, None)])
def test_no_attempt_begins_after_the_time_for_all_of_them(passed_s, wait_s):
    schedule = Schedule(attempts=None, within_s=10.0)

    assert schedule.wait_s(3, passed_s=passed_s, asked_s=2.0) == wait_s


def test_work_is_tried_as_often_as_the_schedule_says():
    assert driven(failing(2), Schedule(attempts=3, base_s=1.0)) == (3, [0.5, 1.0])
    assert driven(failing(3), Schedule(attempts=3, base_s=1.0)) == (3, [0.5, 1.0])  # the third error
    assert driven(failing(1), Schedule(attempts=1)) == (1, [])


def test_the_wait_that_an_error_names_is_kept():
    class Later(Trouble):
        wait_s = 7.0

    def work() -> None:
        raise Later

    waits: list[float] = []
    with pytest.raises(Later):
        retry.call(
            work,
            Attempts(Schedule(attempts=2), rand=half),
            errors=Trouble,
            wait=lambda wait_s: waits.append(wait_s) or False,
            may_help=lambda error: True,
            before_wait=lambda error, wait_s: None,
        )

    assert waits == [7.0]


def test_an_error_that_the_same_again_cannot_mend_is_raised_at_once():
    assert driven(failing(1), Schedule(attempts=3), may_help=lambda error: False) == (1, [])


def test_whoever_ends_the_wait_gets_the_last_error():
    assert driven(failing(9), Schedule(attempts=5), stop_after=2)[0] == 2


def test_the_wait_of_a_thread_ends_when_it_is_cancelled():
    cancelled = threading.Event()

    with pytest.raises(Trouble):
        retry.call(
            failing(9),
            Attempts(Schedule(attempts=2, base_s=3600.0), rand=half),
            errors=Trouble,
            wait=cancelled.wait,
            may_help=lambda error: True,
            before_wait=lambda error, wait_s: cancelled.set(),
        )


def test_asyncio_tries_by_the_same_schedule():
    waits: list[float] = []
    work = failing(2)

    async def attempt() -> int:
        return work()

    async def sleep(wait_s: float) -> None:
        waits.append(wait_s)

    found = asyncio.run(
        retry.call_async(
            attempt,
            Attempts(Schedule(attempts=3, base_s=1.0), rand=half),
            errors=Trouble,
            may_help=lambda error: True,
            before_wait=lambda error, wait_s: None,
            sleep=sleep,
        )
    )

    assert (found, waits) == (3, [0.5, 1.0])
