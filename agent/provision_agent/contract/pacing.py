"""How many bytes of files may be under way: as many as the line carries in a moment, so that logs pass them. Pure.

The receiver tells how much it has taken. How long a byte took to be taken, beyond what it takes on an idle line, is the
length of the queue that files make for everything else on the connection.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Tuple

LEAST_BYTES = 128 << 10
FIRST_BYTES = 1 << 20
MOST_BYTES = 32 << 20
LARGEST_PIECE_BYTES = 512 << 10
SHORT_S, LONG_S = 0.06, 0.15
"""A queue below the first may grow, one above the second shrinks: a log's line waits for no more than that and a beat."""


class Pacer:
    """Of one direction of one session; times are of one steady clock, in seconds."""

    def __init__(self) -> None:
        self.window_bytes = FIRST_BYTES
        self.sent_bytes = 0
        self.taken_bytes = 0
        self._marks: Deque[Tuple[int, float]] = deque()
        self._least_s = self._least_now_s = float("inf")
        self._judged_at_bytes = 0
        self._was_full = False

    @property
    def piece_bytes(self) -> int:
        """How much of a file goes in one piece: more where the line carries it, since each piece costs its receiver the same."""
        return max(LEAST_BYTES, min(self.window_bytes // 8, LARGEST_PIECE_BYTES))

    def has_room(self, size_bytes: int) -> bool:
        """Whether so many bytes may be sent now."""
        under_way = self.sent_bytes - self.taken_bytes
        is_fit = under_way == 0 or under_way + size_bytes <= self.window_bytes
        self._was_full = self._was_full or not is_fit
        return is_fit

    def sent(self, size_bytes: int, now_s: float) -> None:
        """So many bytes were handed to the connection."""
        self.sent_bytes += size_bytes
        self._marks.append((self.sent_bytes, now_s))

    def taken(self, total_bytes: int, now_s: float) -> None:
        """The receiver has taken *total_bytes* since the session began."""
        if total_bytes <= self.taken_bytes or total_bytes > self.sent_bytes:
            return
        self.taken_bytes = total_bytes
        sent_at_s = now_s
        while self._marks and self._marks[0][0] <= total_bytes:
            sent_at_s = self._marks.popleft()[1]
        took_s = now_s - sent_at_s
        self._least_s = min(self._least_s, took_s)
        self._least_now_s = min(self._least_now_s, took_s)
        if total_bytes >= self._judged_at_bytes:  # once for each window, when what it changed can be seen
            self._judge(
                self._least_now_s - self._least_s
            )  # a queue delays all of them, a busy machine only some
            self._judged_at_bytes, self._least_now_s = self.sent_bytes, float("inf")

    def _judge(self, queue_s: float) -> None:
        if queue_s > LONG_S:
            self.window_bytes = max(int(self.window_bytes * 0.6), LEAST_BYTES)
        elif queue_s < SHORT_S and self._was_full:
            self.window_bytes = min(int(self.window_bytes * 1.5), MOST_BYTES)
        self._was_full = False
