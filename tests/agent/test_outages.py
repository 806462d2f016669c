"""Who tries a server again that cannot be reached, when, and until when."""

from __future__ import annotations

import pytest
from provision_agent.contract.failures import Failure
from provision_agent.contract.retry import Schedule
from provision_agent.run.outages import UNCARED_S, WIDEST_WAIT_S, Outages, PatientAttempts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Way:
    """One way to what is wanted."""

    def __init__(self, *places: str) -> None:
        self.places = places
        self.failure = None


class Ended(Exception):
    """Nobody wants the result any more."""


DOWN = Failure("unreachable", "h:80: Connection refused")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outages(clock: Clock) -> Outages:
    return Outages(60.0, clock, rand=lambda: 1.0)


def never(wait_s: float) -> None:
    raise Ended


def test_waits_double_up_to_their_cap_and_the_last_try_is_when_patience_ends(outages, clock):
    began, waits = clock.now, []
    way = Way("h:80")
    while outages.first([way], lambda wait_s: setattr(clock, "now", clock.now + wait_s)) is way:
        waits.append(outages.note("h:80", DOWN))

    assert [round(wait) for wait in waits[:5]] == [1, 2, 4, 8, 15]
    assert max(waits) == WIDEST_WAIT_S
    assert 60.0 <= clock.now - began < 61.0
    assert way.failure.message == "h:80: Connection refused (tried for 60 s)"


def test_only_one_of_all_that_wait_asks_and_its_answer_is_everybodys(outages, clock):
    outages.note("h:80", DOWN)
    clock.now += 2.0

    assert outages.may_try("h:80")
    assert not any(outages.may_try("h:80") for _ in range(20))
    outages.end("h:80")
    assert all(outages.may_try("h:80") for _ in range(20))


def test_failures_of_the_same_moment_count_once(outages):
    waits = {outages.note("h:80", DOWN) for _ in range(20)}

    assert waits == {1.0}
    assert outages.failures("h:80") == 1


def test_a_turn_that_is_not_used_goes_to_the_next_at_once(outages, clock):
    outages.note("h:80", DOWN)
    clock.now += 2.0
    assert outages.may_try("h:80")

    outages.let_go("h:80")

    assert outages.may_try("h:80")


def test_a_turn_whose_owner_is_never_heard_of_again_ends_by_itself(outages, clock):
    outages.note("h:80", DOWN)
    clock.now += 2.0
    assert outages.may_try("h:80")

    clock.now += 100.0

    assert outages.may_try("h:80")


def test_another_way_is_taken_at_once_and_the_first_one_is_not_asked_again(outages, clock):
    outages.note("h:80", DOWN)
    clock.now += 30.0
    down, other = Way("h:80"), Way("other:80")

    assert outages.first([down, other], never) is other
    assert down.failure is None


def test_a_server_behind_another_counts_too(outages):
    outages.note("cdn:443", DOWN)

    with pytest.raises(Ended):
        outages.first([Way("hub:443", "cdn:443")], never)


def test_when_patience_has_ended_whoever_comes_next_fails_at_once(outages, clock):
    way = Way("h:80")
    while outages.first([way], lambda wait_s: setattr(clock, "now", clock.now + wait_s)) is way:
        outages.note("h:80", DOWN)

    late = Way("h:80")
    assert outages.first([late], never) is None
    assert late.failure.class_ == "unreachable"


def test_patience_begins_anew_for_a_server_that_nobody_has_waited_for(outages, clock):
    outages.note("h:80", DOWN)
    clock.now += 600.0 + UNCARED_S
    way = Way("h:80")
    assert outages.first([way], never) is way
    outages.note("h:80", DOWN)

    with pytest.raises(Ended):
        outages.first([way], never)
    assert way.failure is None


def test_attempts_at_what_cannot_be_reached_end_by_time_and_others_by_number():
    patient = PatientAttempts(Schedule(attempts=2, base_s=0.1), Outages(60.0), "packages")
    assert all(patient.after_failure(Failure("network", "no route")) is not None for _ in range(9))

    counted = PatientAttempts(Schedule(attempts=2, base_s=0.1), Outages(60.0), "packages")
    assert counted.after_failure(Failure("upstream_down", "503")) is not None
    assert counted.after_failure(Failure("upstream_down", "503")) is None


def test_patience_that_is_spent_is_not_had_again_by_the_next_piece_of_work(outages, clock):
    down, schedule = Failure("network", "no route"), Schedule(attempts=2, base_s=0.1)
    first = PatientAttempts(schedule, outages, "packages")
    while (wait_s := first.after_failure(down)) is not None:
        clock.now += wait_s
    assert first.failures > 2

    second = PatientAttempts(schedule, outages, "packages")
    assert second.after_failure(down) is not None
    assert second.after_failure(down) is None

    outages.end("packages")
    third = PatientAttempts(schedule, outages, "packages")
    assert all(third.after_failure(down) is not None for _ in range(5))
