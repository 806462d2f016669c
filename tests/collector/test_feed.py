"""The end of a run's stream in memory: whoever is near it is told from there, and whoever is not is sent to the database."""

from __future__ import annotations

import asyncio

from provision_collector.pool.server.feed import RECENT, Feed, Feeds


def told(*numbers: int) -> list[tuple[int, bytes]]:
    return [(number, b"%d" % number) for number in numbers]


def test_what_is_recent_comes_from_memory_and_nothing_before_it() -> None:
    feed = Feed(0, 1)
    feed.listeners.add(asyncio.Event())
    feed.tell(told(*range(1, RECENT + 51)))

    assert feed.after(RECENT + 50) == [], "there is nothing new"
    assert feed.after(RECENT + 60) == [], "nor for whoever has seen more than there is"
    assert feed.after(RECENT + 48) == told(RECENT + 49, RECENT + 50)
    assert feed.after(50) == told(*range(51, RECENT + 51))
    assert feed.after(49) is None
    feed.tell(told(RECENT + 50, RECENT + 51))
    assert feed.after(RECENT + 49) == told(RECENT + 50, RECENT + 51), (
        "an event that is told twice counts once"
    )


def test_events_that_nobody_followed_are_not_kept_in_memory() -> None:
    feed, listener = Feed(0, 1), asyncio.Event()
    feed.tell(told(1, 2))
    assert feed.after(0) is None
    feed.listeners.add(listener)
    feed.tell(told(3))
    assert listener.is_set()
    assert (feed.after(2), feed.after(1)) == (told(3), None)
    feed.listeners.clear()
    feed.tell(told(4))
    feed.listeners.add(listener)
    assert feed.after(3) is None


def test_followers_are_sent_away_from_a_server_that_hears_nothing_any_more() -> None:
    feeds, listener = Feeds(), asyncio.Event()
    feed = feeds.of(0, 1)
    feed.listeners.add(listener)
    feeds.cut()
    assert listener.is_set()
    assert feed.is_cut
    assert feeds.of(0, 1) is not feed, "whoever comes back begins anew"


def test_events_that_were_not_told_here_are_never_passed_over() -> None:
    feed = Feed(0, 1)
    feed.listeners.add(asyncio.Event())
    feed.tell([(number, b"x") for number in range(1, 6)])
    feed.last_id = 8  # as who takes the run over does, who has read so far
    feed.tell([(9, b"x")])
    assert feed.after(5) is None, "the database has what lies between"
    assert feed.after(8) == [(9, b"x")]
