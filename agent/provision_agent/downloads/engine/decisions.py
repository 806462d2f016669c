"""Who fetches what: a function from how things stand to what is to be done. No threads, no sockets, no clock.

Bytes are handed out in file order, so that one hasher per file can follow while they are still in the page cache.
The most urgent file is served first. When nothing is left to hand out, the range that would last longest is cut,
if that helps: a connection that crawls beside its siblings loses all it has left, others lose their rear half, and
only while the line has room for more.
"""

from __future__ import annotations

import math
import statistics
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

MIB = 1 << 20
MIN_RANGE, FIRST_RANGE, MAX_RANGE = 8 * MIB, 12 * MIB, 128 * MIB
FIRST_WAIT_S, FIRST_TIMES = 0.08, 4.0
"""A first range is as many times longer as an answer takes longer than this, up to so many times."""
TAIL_RANGE, TAIL_S, FAST_BYTES_PER_S = 2 * MIB, 0.15, 10e6
"""Fast connections are given as little as `TAIL_S` of work at the end, so that all end together."""
TURNS_MOST, LEAST_WAIT_S = 16, 0.02
"""A file is handed out in at most so many turns of its connections; a request costs at least so long."""
MIN_CUT, MAX_CUT, CUT_S = MIB // 4, 4 * MIB, 1.5
"""A piece that is cut off holds so many seconds of work, within these bounds: each costs a request."""
CUT_AFTER_S, SILENT_S = 0.3, 2.0
"""A range is not cut before its speed is known; one without an answer is given up on after `SILENT_S`."""
WORTH_S, UNTRIED_WORTH_S = 0.25, 10.0
"""What a cut must save besides the wait for an answer; and on a slow line where nobody knows yet whether more connections
help: if they do not, what was on its way beyond the cut is lost."""
SLOW_AFTER_S, SLOW_SHARE, SIBLINGS_LEAST = 1.0, 0.1, 3
"""A connection that brings less than this share of what its siblings bring is slow."""
HOPELESS_SHARE = 0.25
LUMPS = MIB
"""Bytes come in lumps: a speed is known when its siblings have brought so much each."""
SLOWEST_USEFUL_BYTES_PER_S = 128 * 1024
"""When all are slower than this, it is the line, and a new connection is no better."""


class Piece(NamedTuple):
    """A range on its way: ``[position, end)`` is still to come."""

    key: int
    position: int
    end: int
    bytes_per_s: float
    age_s: float
    """Since it was handed out."""
    whole_s: float
    """Since it was last cut, or handed out."""
    is_answered: bool

    @property
    def left(self) -> int:
        return max(0, self.end - self.position)

    @property
    def lasts_s(self) -> float:
        return self.left / (self.bytes_per_s + 1.0)


class File(NamedTuple):
    """A file that is being fetched."""

    key: int
    host: str
    missing: Tuple[Tuple[int, int], ...]
    """What nobody fetches yet, in order."""
    pieces: Tuple[Piece, ...]
    most: int
    """Connections that it may have now; 0: none for the moment."""
    hoped: int
    """Connections that it may come to have: among so many its bytes are divided."""
    closes: int
    """Connections that may still be closed for being slow: each costs a request and what is on its way."""
    is_whole: bool
    """It comes in one answer or not at all."""
    is_alone: bool
    """It never has more than one connection."""


class Host(NamedTuple):
    """What is known of a host."""

    open: int
    """Connections that are at work for it."""
    allowed: Optional[int]
    """Open no more than this; None: nothing speaks against more."""
    held: Optional[int]
    """More than this make it collapse: close those that are too many."""
    bytes_per_s: float
    """Of one connection; 0: not known."""
    first_byte_s: float
    more_helps: bool
    """More connections than now would bring more, as far as is known."""
    worth_s: float = WORTH_S
    """What another connection must save."""


class State(NamedTuple):
    """How things stand."""

    files: Sequence[File]
    """The most urgent first."""
    hosts: Mapping[str, Host]
    idle: int
    """Connections that have nothing to do."""
    is_line_full: bool = False
    """More connections have been tried and brought nothing: then waiting for answers costs nothing either."""
    hash_bytes_per_s: float = 2e9
    """What the hashes of all files together can take."""


class Assign(NamedTuple):
    """An idle connection fetches ``[start, end)``, which was missing."""

    file: int
    start: int
    end: int


class Cut(NamedTuple):
    """An idle connection takes ``[at, end)`` from the piece; if that is all it had, its connection is closed."""

    file: int
    piece: int
    at: int


class Close(NamedTuple):
    """The piece's connection is closed; what it did not bring is missing again."""

    file: int
    piece: int


Action = Union[Assign, Cut, Close]


def decide(state: State) -> List[Action]:
    """What to do now. Each action holds for the state that those before it leave behind."""
    desk = _Desk(state)
    actions: List[Action] = [*_surplus(desk), *_crawling(desk)]
    for _ in range(state.idle):
        action = _assign(desk) or _cut(desk)
        if action is None:
            break
        actions.append(action)
    return actions


class _Desk:
    """The state while it is decided upon."""

    def __init__(self, state: State) -> None:
        self.files = state.files
        self.hosts = state.hosts
        self.is_line_full = state.is_line_full
        self.hash_bytes_per_s = state.hash_bytes_per_s
        self.open = {name: host.open for name, host in state.hosts.items()}
        self.missing: Dict[int, List[Tuple[int, int]]] = {
            each.key: list(each.missing) for each in state.files
        }
        self.pieces: Dict[int, Dict[int, Piece]] = {
            each.key: {piece.key: piece for piece in each.pieces} for each in state.files
        }
        self.count = {each.key: len(each.pieces) for each in state.files}
        self.assigned = {each.key: 0 for each in state.files}
        self.closes = {each.key: each.closes for each in state.files}
        self.left = sum(end - start for spans in self.missing.values() for start, end in spans)

    def has_room(self, file: File) -> bool:
        host = self.hosts[file.host]
        caps = [cap for cap in (host.allowed, host.held) if cap is not None]
        return self.count[file.key] < file.most and all(self.open[file.host] < cap for cap in caps)

    def opened(self, file: File) -> None:
        self.count[file.key] += 1
        self.open[file.host] += 1

    def closed(self, file: File, piece: Piece) -> None:
        del self.pieces[file.key][piece.key]
        self.open[file.host] -= 1


def _surplus(desk: _Desk) -> List[Action]:
    """Close what is too much for a host, from the least urgent file's rear on."""
    actions: List[Action] = []
    for file in reversed(desk.files):
        host = desk.hosts[file.host]
        for piece in sorted(desk.pieces[file.key].values(), key=lambda each: -each.position):
            if host.held is not None and desk.open[file.host] > max(1, host.held) and not file.is_whole:
                desk.closed(file, piece)
                actions.append(Close(file.key, piece.key))
    return actions


def _crawling(desk: _Desk) -> List[Action]:
    """Close connections that crawl while their siblings run: what they have left goes to new ones."""
    actions: List[Action] = []
    for file in desk.files:
        if file.is_whole or file.most == 0:
            continue
        host = desk.hosts[file.host]
        rates = [
            piece.bytes_per_s
            for each in desk.files
            if each.host == file.host
            for piece in desk.pieces[each.key].values()
            if piece.age_s > SLOW_AFTER_S
        ]
        usual = statistics.median(rates) if rates else 0.0
        if len(rates) <= SIBLINGS_LEAST or usual < SLOWEST_USEFUL_BYTES_PER_S:
            continue
        for piece in list(desk.pieces[file.key].values()):
            is_known = piece.age_s > max(
                SLOW_AFTER_S if piece.is_answered else SILENT_S, 6 * host.first_byte_s
            )
            gain_s = piece.lasts_s - piece.left / usual - 2 * host.first_byte_s
            is_slow = is_known and piece.bytes_per_s < SLOW_SHARE * usual
            if is_slow and gain_s > WORTH_S and desk.closes[file.key] > 0:
                desk.closed(file, piece)
                desk.closes[file.key] -= 1
                actions.append(Close(file.key, piece.key))
    return actions


def _assign(desk: _Desk) -> Optional[Action]:
    for file in desk.files:
        spans = desk.missing[file.key]
        if spans and desk.has_room(file):
            start, end = spans[0]
            length = end - start if file.is_whole or file.is_alone else _length(desk, file)
            # a last bit that is not worth a request of its own goes along
            cut = end if end - start < length + length // 4 else start + length
            spans[0:1] = [(cut, end)] if cut < end else []
            desk.left -= cut - start
            desk.assigned[file.key] += cut - start
            desk.opened(file)
            return Assign(file.key, start, cut)
    return None


def _length(desk: _Desk, file: File) -> int:
    """How much to hand out at once.

    Many turns let the hash follow close behind, and end together; few turns wait less often for an answer. With
    *lag* seconds of hashing at the end if all came in one turn, and *wait* seconds per turn, the sum is least at
    the square root of their ratio.
    """
    host = desk.hosts[file.host]
    rate, wait_s = host.bytes_per_s, host.first_byte_s
    missing = sum(end - start for start, end in desk.missing[file.key])
    coming = sum(piece.left for piece in desk.pieces[file.key].values()) + desk.assigned[file.key]
    lag_s = desk.left / desk.hash_bytes_per_s
    turns = min(max(1.0, math.sqrt(lag_s / max(wait_s, LEAST_WAIT_S))), TURNS_MOST)
    if desk.is_line_full:
        turns = TURNS_MOST
    first = FIRST_RANGE * min(max(1.0, wait_s / FIRST_WAIT_S), FIRST_TIMES)
    wanted = rate * max(2.0, 8 * wait_s) if rate else first
    fair = (missing + coming) / (turns * max(1, file.hoped))
    least = MIN_RANGE
    if rate >= FAST_BYTES_PER_S:
        share = desk.left / (2 * max(1, sum(desk.open.values())))
        least = int(min(max(share, rate * max(TAIL_S, 4 * wait_s), TAIL_RANGE), MIN_RANGE))
    return int(min(max(min(wanted, fair), least), MAX_RANGE))


def _cut(desk: _Desk) -> Optional[Action]:
    for file in desk.files:
        if file.is_whole or not desk.has_room(file):
            continue
        action = _cut_of(desk, file)
        if action is not None:
            return action
    return None


def _cut_of(desk: _Desk, file: File) -> Optional[Action]:
    """The piece of *file* that would last longest, cut so that both ends finish together."""
    host, pieces = desk.hosts[file.host], desk.pieces[file.key]
    settled = [
        piece
        for piece in pieces.values()
        if piece.left > 0
        and piece.age_s > max(CUT_AFTER_S if piece.is_answered else SILENT_S, 4 * host.first_byte_s)
        and piece.whole_s > CUT_AFTER_S
    ]
    usual = host.bytes_per_s or max([piece.bytes_per_s for piece in settled], default=0.0)
    if not settled or usual <= 0:
        return None
    piece = max(settled, key=lambda each: each.lasts_s)
    take = _take(piece, host, usual)
    if take == 0 or (take == piece.left and desk.closes[file.key] <= 0):
        return None
    desk.opened(file)
    if take == piece.left:
        desk.closed(file, piece)
        desk.closes[file.key] -= 1
        return Cut(file.key, piece.key, piece.position)
    pieces[piece.key] = piece._replace(end=piece.end - take, whole_s=0.0)
    return Cut(file.key, piece.key, piece.end - take)


def _take(piece: Piece, host: Host, usual: float) -> int:
    """How much of *piece* another connection should take; 0: none."""
    rate, wait_s = piece.bytes_per_s, host.first_byte_s
    is_hopeless = rate < HOPELESS_SHARE * usual and piece.age_s > max(SLOW_AFTER_S, LUMPS / usual)
    both_s = (piece.left + usual * wait_s) / (rate + usual)
    if is_hopeless:
        return piece.left if piece.lasts_s - piece.left / usual - wait_s > WORTH_S + wait_s else 0
    least = min(max(int(CUT_S * rate), MIN_CUT), MAX_CUT)
    take = int((piece.left - rate * wait_s) * usual / (usual + rate))
    is_worth_it = piece.lasts_s - both_s > host.worth_s + wait_s and take >= least <= piece.left - take
    return take if is_worth_it and host.more_helps else 0
