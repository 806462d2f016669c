"""Who fetches what, decided without threads and sockets: over any course of events no byte twice, none forgotten."""

from __future__ import annotations

import random

import pytest
from provision_agent.downloads.engine import decisions
from provision_agent.downloads.engine.decisions import Assign, Close, Cut, File, Host, Piece, State, decide
from provision_agent.downloads.engine.gauge import Gauge
from provision_agent.downloads.engine.ranges import Extents, merged

MIB = 1 << 20
HOST = Host(open=0, allowed=None, held=None, bytes_per_s=20e6, first_byte_s=0.05, more_helps=True)


def a_file(
    key=0, missing=(), pieces=(), most=8, hoped=8, host="a", closes=9, is_whole=False, is_alone=False
) -> File:
    return File(key, host, tuple(missing), tuple(pieces), most, hoped, closes, is_whole, is_alone)


def a_piece(key=100, position=0, end=32 * MIB, rate=20e6, age_s=2.0, whole_s=2.0, is_answered=True) -> Piece:
    return Piece(key, position, end, rate, age_s, whole_s, is_answered)


class World:
    """Files that are fetched by connections of all kinds, in steps of 0.1 s; only `decide` chooses."""

    def __init__(self, rand: random.Random) -> None:
        self.rand = rand
        self.now = 0.0
        self.connections = rand.randrange(1, 20)
        self.extents = [Extents(rand.randrange(1, 200 * MIB)) for _ in range(rand.randrange(1, 6))]
        self.hosts = [rand.choice("ab") for _ in self.extents]
        self.most = [rand.randrange(1, 17) for _ in self.extents]
        self.is_whole = [rand.random() < 0.1 for _ in self.extents]
        self.allowed = {name: rand.choice([None, None, 1, 3]) for name in "ab"}
        self.held = {name: rand.choice([None, None, None, 2]) for name in "ab"}
        self.closes = [rand.randrange(0, 40) for _ in self.extents]
        self.speed: dict[int, float] = {}
        self.brought: list[list[tuple[int, int]]] = [[] for _ in self.extents]
        self.closing: set[int] = set()

    @property
    def is_over(self) -> bool:
        return all(each.is_complete for each in self.extents)

    def state(self) -> State:
        claims = [claim for each in self.extents for claim in each.claims]
        hosts = {
            name: Host(
                sum(
                    len(each.claims) for number, each in enumerate(self.extents) if self.hosts[number] == name
                ),
                self.allowed[name],
                self.held[name],
                self.rand.choice([0.0, 1e6, 20e6]),
                self.rand.choice([0.0, 0.05, 0.3]),
                self.rand.random() < 0.7,
            )
            for name in "ab"
        }
        files = [
            File(
                number,
                self.hosts[number],
                tuple(each.missing),
                tuple(
                    Piece(
                        id(claim),
                        claim.reached,
                        claim.end,
                        claim.rate(self.now),
                        self.now - claim.began_at,
                        self.now - claim.cut_at,
                        claim.landed_at is not None,
                    )
                    for claim in each.claims
                    if id(claim) not in self.closing
                ),
                1 if self.is_whole[number] else self.most[number],
                16,
                self.closes[number],
                self.is_whole[number],
                self.most[number] == 1,
            )
            for number, each in enumerate(self.extents)
        ]
        return State(files, hosts, self.connections - len(claims))

    def step(self) -> None:
        self.now += 0.1
        state = self.state()
        self.act(state, decide(state))
        for number, each in enumerate(self.extents):
            for claim in list(each.claims):
                self.move(number, claim)

    def act(self, state: State, actions) -> None:
        """Do it, as the pool does; whatever is not possible raises."""
        used = [action for action in actions if not isinstance(action, Close)]
        assert len(used) <= state.idle
        for action in actions:
            each = self.extents[action.file]
            pieces = {id(claim): claim for claim in each.claims}
            if isinstance(action, Close):
                self.closing.add(action.piece)
            elif isinstance(action, Assign):
                self.begin(each.take(action.start, action.end, self.now))
            else:
                cut = pieces[action.piece]
                assert cut.reached <= action.at < cut.end
                self.begin(each.split(cut, action.at, self.now))
                if cut.left == 0:
                    self.closing.add(action.piece)
        self.check(state, actions)

    def begin(self, claim) -> None:
        self.speed[id(claim)] = self.rand.choice([0.0, 5e4, 1e6, 20e6, 20e6, 20e6, 100e6])

    def check(self, state: State, actions) -> None:
        open_to = {
            name: sum(
                len(each.claims) for number, each in enumerate(self.extents) if self.hosts[number] == name
            )
            for name in "ab"
        }
        closed = {name: sum(isinstance(a, (Close, Cut)) for a in actions) for name in "ab"}
        assigned = [action.file for action in actions if isinstance(action, Assign)]
        for number, each in enumerate(self.extents):
            name, most = self.hosts[number], state.files[number].most
            caps = [cap for cap in (self.allowed[name], self.held[name]) if cap is not None]
            room = len(each.claims) < most and all(open_to[name] < cap for cap in caps)
            if each.missing and room:
                # it could have had another connection: so nobody after it got one, and none is idle
                assert not [other for other in assigned if other > number], "priority"
                busy = sum(len(extents.claims) for extents in self.extents)
                assert busy >= self.connections, "starvation"
            for cap in caps:
                before = state.hosts[name].open
                assert open_to[name] <= max(cap, before) + closed[name]

    def move(self, number: int, claim) -> None:
        """A connection goes on for 0.1 s: it brings something, breaks, or ends."""
        each = self.extents[number]
        if self.rand.random() < 0.02:
            self.speed[id(claim)] = 20e6
        is_over = id(claim) in self.closing or self.rand.random() < (0.0 if self.is_whole[number] else 0.01)
        if not is_over:
            start, count = claim.reached, min(claim.left, int(self.speed[id(claim)] * 0.1))
            if count:
                claim.landed_at = claim.landed_at or self.now
                self.brought[number].append((start, start + count))
            # it may have read beyond an end that was moved meanwhile
            claim.position = start + count + self.rand.choice([0, 0, MIB]) * (count == claim.left)
            claim.sample(self.now)
        if is_over or claim.left == 0:
            each.release(claim)
            self.closing.discard(id(claim))


def run(rand: random.Random) -> World:
    world = World(rand)
    for _ in range(20_000):
        if world.is_over:
            break
        world.step()
    assert world.is_over, "something is never fetched"
    for number, each in enumerate(world.extents):
        brought = world.brought[number]
        assert merged(brought) == [(0, each.size)], "a byte is missing"
        assert sum(end - start for start, end in brought) == each.size, "a byte came twice"
        assert each.landed == each.frontier == each.size
    return world


@pytest.mark.parametrize("seed", range(40))
def test_every_byte_comes_once_whatever_the_connections_do(seed):
    run(random.Random(seed))


def test_every_byte_comes_once_in_the_worst_course_that_a_search_finds():
    hypothesis = pytest.importorskip("hypothesis")

    @hypothesis.settings(max_examples=60, deadline=None)
    @hypothesis.given(hypothesis.strategies.integers(0, 1 << 64))
    def search(seed):
        run(random.Random(seed))

    search()


def test_the_most_urgent_file_is_served_first_and_in_file_order():
    files = [a_file(0, [(0, 400 * MIB)], most=3), a_file(1, [(0, 400 * MIB)], most=3)]

    actions = decide(State(files, {"a": HOST}, 4))

    assert [action.file for action in actions] == [0, 0, 0, 1]
    ends = [action.end for action in actions[:3]]
    assert [action.start for action in actions[:3]] == [0, *ends[:2]]


def test_a_small_file_gets_no_more_connections_than_its_bytes_are_worth():
    host = HOST._replace(bytes_per_s=1.2e6)
    actions = decide(State([a_file(0, [(0, 18_000_000)], most=16)], {"a": host}, 32))

    assert len(actions) == 2


def test_idle_connections_get_equal_parts_of_a_file_and_larger_ones_the_later_an_answer_comes():
    def lengths(wait_s: float) -> set[int]:
        host = HOST._replace(first_byte_s=wait_s, bytes_per_s=0.0)
        actions = decide(State([a_file(missing=[(0, 256 * MIB)])], {"a": host}, idle=8))
        return {action.end - action.start for action in actions}

    near, far = lengths(0.001), lengths(0.3)

    assert len(near) == len(far) == 1
    assert max(near) < max(far) <= 32 * MIB


def test_a_file_that_may_have_one_connection_only_is_asked_for_in_one_request():
    actions = decide(State([a_file(0, [(0, 9 << 30)], most=1, is_alone=True)], {"a": HOST}, 8))

    assert actions == [Assign(0, 0, 9 << 30)]


@pytest.mark.parametrize("wait_s", [0.0, 0.25, 1.0])
def test_the_longer_an_answer_takes_the_more_is_asked_for(wait_s):
    file = a_file(0, [(0, 1 << 30)], most=8)

    action = decide(State([file], {"a": HOST._replace(first_byte_s=wait_s)}, 1))[0]

    least, most = {0.0: (8, 40), 0.25: (36, 90), 1.0: (90, 128)}[wait_s]
    assert least * MIB <= action.end <= most * MIB


def test_a_connection_that_crawls_beside_its_siblings_is_closed():
    well = [a_piece(n, n * 32 * MIB, (n + 1) * 32 * MIB) for n in range(7)]
    slow = a_piece(7, 240 * MIB, 250 * MIB, rate=1e6)

    assert decide(State([a_file(0, pieces=[*well, slow])], {"a": HOST}, 0)) == [Close(0, 7)]


def test_only_so_many_are_closed_for_being_slow():
    well = [a_piece(n, n * 32 * MIB, (n + 1) * 32 * MIB) for n in range(7)]
    slow = [a_piece(n, n * 32 * MIB, (n + 1) * 32 * MIB, rate=1e6) for n in range(7, 10)]

    assert len(decide(State([a_file(0, pieces=[*well, *slow], closes=2)], {"a": HOST}, 0))) == 2


def test_connections_that_are_all_slow_are_left_alone():
    pieces = [a_piece(n, n * 32 * MIB, (n + 1) * 32 * MIB, rate=5e4 * n) for n in range(3)]

    assert decide(State([a_file(0, pieces=pieces)], {"a": HOST._replace(bytes_per_s=0)}, 0)) == []


def test_the_tail_is_divided_while_the_line_has_room_and_left_alone_when_it_is_full():
    pieces = [a_piece(n, n * 32 * MIB, (n + 1) * 32 * MIB) for n in range(2)]
    file = a_file(0, pieces=pieces)

    room = decide(State([file], {"a": HOST}, 8))
    full = decide(State([file], {"a": HOST._replace(more_helps=False)}, 8))

    assert [(type(action), action.piece) for action in room] == [(Cut, 0), (Cut, 1)]
    assert full == []


def test_what_nobody_has_tried_yet_must_promise_more_than_what_is_known_to_help():
    def actions(worth_s: float):
        host = HOST._replace(open=1, bytes_per_s=1e6, worth_s=worth_s)
        piece = a_piece(end=12_000_000, rate=1e6)
        return decide(State([a_file(pieces=[piece])], {"a": host}, idle=1))

    assert len(actions(decisions.WORTH_S)) == 1
    assert actions(decisions.UNTRIED_WORTH_S) == []


def test_nothing_is_cut_off_that_would_not_be_worth_its_request():
    pieces = [a_piece(0, 0, 6 * MIB)]

    assert decide(State([a_file(0, pieces=pieces)], {"a": HOST}, 8)) == []


def test_a_host_that_collapses_is_held_and_what_is_too_much_is_closed_from_the_rear():
    pieces = [a_piece(n, n * 32 * MIB, (n + 1) * 32 * MIB) for n in range(6)]
    host = HOST._replace(open=6, held=4)

    actions = decide(State([a_file(0, [(200 * MIB, 300 * MIB)], pieces)], {"a": host}, 3))

    assert actions == [Close(0, 5), Close(0, 4)]


# -- the gauge


def gauged(speed_of, counts, gauge=None, at=0.0):
    """Let a host have each of *counts* connections for a second."""
    if gauge is None:
        gauge = Gauge()
        gauge.landed = 0
    for count in counts:
        for _ in range(10):
            at += 0.1
            gauge.landed += speed_of(count) / 10
            gauge.note(at, count, count, speed_of(count), gauge.landed)
    return gauge, at


def test_more_connections_are_wanted_while_they_help():
    gauge, at = gauged(lambda count: count * 10e6, [2, 4, 8])

    assert gauge.more_helps(at)


def test_one_doubling_shows_that_the_line_is_full():
    first, at = gauged(lambda count: 1.2e6, [2] * 5)
    assert first.more_helps(at), "nobody knows yet"

    second, at = gauged(lambda count: 1.2e6, [4] * 5, first, at)
    assert not second.more_helps(at)


def test_when_connections_end_and_the_others_do_not_speed_up_the_line_has_room():
    gauge, at = gauged(lambda count: count * 10e6, [16, 4])

    assert gauge.more_helps(at)


def test_when_connections_end_and_the_others_speed_up_it_has_none():
    gauge, at = gauged(lambda count: 10e6, [16, 8])

    assert not gauge.more_helps(at)


def test_a_host_that_collapses_is_held_at_the_most_that_it_stands_and_tried_again_later():
    def speed_of(count):
        return count * 5e6 if count <= 13 else 1e6

    gauge, at = gauged(speed_of, [4, 32])
    assert gauge.held == 4
    for _ in range(20):
        gauge, at = gauged(speed_of, [gauge.held], gauge, at)
    assert 11 <= gauge.held <= 13
    gauge, at = gauged(speed_of, [8] * 61, gauge, at)
    assert gauge.held is None


def test_a_trial_is_dear_on_a_slow_line_until_it_has_been_made():
    slow, _ = gauged(lambda count: 1.2e6, [2])
    fast, _ = gauged(lambda count: 40e6, [2])
    tried, _ = gauged(lambda count: 1.2e6, [2] * 5 + [4])

    assert (slow.is_trial_dear(), fast.is_trial_dear(), tried.is_trial_dear()) == (True, False, False)


def test_what_connections_brought_before_a_number_was_tried_does_not_count_against_it():
    """A connection's own speed is that of its last MiB, which a collapse made slow for seconds."""
    gauge, at = gauged(lambda count: count * 5e6 if count <= 13 else 1e6, [4, 32])
    assert gauge.held == 4

    for _ in range(25):
        at += 0.1
        gauge.landed += 2e6
        gauge.note(at, gauge.held, gauge.held, 1e6, gauge.landed)

    assert gauge.held is not None and gauge.held > 4


def test_a_host_that_stands_less_than_it_seemed_to_is_held_at_less():
    gauge, at = gauged(lambda count: {4: 2e6, 12: 3e6, 32: 1e6}[count], [4, 4, 4, 12, 12, 32, 32, 32])
    assert gauge.held in (6, 12)

    for _ in range(20):
        gauge, at = gauged(lambda count: count * 2e6 if count <= 8 else 4e5, [gauge.held], gauge, at)
    assert 7 <= gauge.held <= 8


def test_a_line_that_is_slower_for_a_moment_is_no_collapse():
    gauge, at = gauged(lambda count: 40e6, [4, 32])
    for tick in range(20):
        gauge.landed += 10**5 if tick < 5 else 4 * 10**6
        gauge.note(at + tick / 10, 32, 32, 1e6 if tick < 5 else 40e6, gauge.landed)

    assert gauge.held is None
    assert decisions.MIN_RANGE == 8 * MIB


def test_a_line_that_became_slow_is_not_blamed_on_the_number_of_connections():
    """Fewer connections bring no more: after a few seconds all are let in again, and not suspected soon."""
    gauge, at = gauged(lambda count: 100e6, [4])
    gauge, at = gauged(lambda count: 5e6, [32], gauge, at)
    assert gauge.held is not None
    for _ in range(8):
        gauge, at = gauged(lambda count: 5e6, [gauge.held or 32], gauge, at)

    assert gauge.held is None
    gauge, at = gauged(lambda count: 5e6, [32] * 20, gauge, at)
    assert gauge.held is None
