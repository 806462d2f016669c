"""The share of this process's time that one instance may take, by what it sends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from provision_agent.contract import frames
from provision_collector.errors import ProtocolFaultError
from provision_collector.mirror import Pace, check_events, pace

BEAT = frames.Frame(frames.BEAT, 0, b'{"sizes": [0, 0, 0]}')


def data(size: int) -> frames.Frame:
    return frames.Frame(frames.DATA, 0, bytes(size), 0, 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    yield now


def test_what_an_honest_run_writes_never_waits(clock: list[float]) -> None:
    with ExitStack() as stack:
        paces = [stack.enter_context(Pace()) for _ in range(200)]
        for _ in range(600):  # five minutes of 16 downloads at once, and a log of a megabyte per second
            clock[0] += 0.5
            for each in paces:
                each.take(data(16 * 270), is_events=True)
                each.take(data(1 << 19), is_events=False)
                each.take(BEAT, is_events=False)
                assert each.wait_s == 0


def test_a_flood_waits_and_the_more_go_on_beside_it_the_longer(clock: list[float]) -> None:
    with Pace() as alone:
        alone.take(data(4 << 20), is_events=True)
        first_s = alone.wait_s
        assert first_s == pytest.approx((4.19 - pace.BURST_S) / pace.SHARE, rel=0.01)
        with ExitStack() as stack:
            for _ in range(7):
                stack.enter_context(Pace())
            assert alone.wait_s == pytest.approx(8 * first_s)
        clock[0] += first_s
        assert alone.wait_s == pytest.approx(0)
    with Pace(share=None) as unbounded:
        unbounded.take(data(64 << 20), is_events=True)
        assert unbounded.wait_s == 0


def test_who_goes_on_with_more_than_any_agent_says_is_told_so(clock: list[float]) -> None:
    with (
        Pace() as beats,
        pytest.raises(ProtocolFaultError, match="messages that are no bytes of a log") as fault,
    ):
        for _ in range(20_000):
            beats.take(BEAT, is_events=False)
            clock[0] += beats.wait_s
    assert fault.value.cause == "protocol"
    with Pace() as turns, pytest.raises(ProtocolFaultError, match="began anew more than 500 times"):
        for _ in range(1000):
            turns.begin_generation()
            clock[0] += turns.wait_s
    check_events(pace.MAX_EVENTS_AT_ONCE_BYTES, age_s=0)
    check_events(300 << 20, age_s=6 * 3600)
    with pytest.raises(
        ProtocolFaultError, match="a flood: 300 MiB of events within 3600 s, and no agent writes so many"
    ):
        check_events(300 << 20, age_s=3600)


def test_of_more_than_two_hundred_runs_each_shows_life_less_often() -> None:
    with ExitStack() as stack:
        paces = [stack.enter_context(Pace()) for _ in range(200)]
        assert paces[0].heartbeat_s == 2.0
        assert stack.enter_context(Pace()).heartbeat_s == 5.0
    assert paces[0].heartbeat_s == 2.0
