"""How much of this process's time what one instance sends may take: the rest of it is left with the instance.

A session that is over its share takes nothing for a while. The window of its channel fills, the other side has to wait, and the
runs beside it do not notice. What an honest agent writes stays far below a share; who goes on flooding with what no agent
writes so often has an end.
"""

from __future__ import annotations

import time

from provision_agent.contract import frames

from ..errors import ProtocolFaultError

HEARTBEAT_S = 2.0
"""How often both sides of a session show life; three times nothing is a lost link."""
MANY = 200
HEARTBEAT_OF_MANY_S = 5.0

SHARE = 0.3
"""Of one processor's time, for all that are going together."""
LEAST_SHARE = 0.02
"""Of one of them, however many there are: several times of what the events of a large run cost."""
BURST_S = 0.5
"""So much may be taken at once: what was written while nobody looked."""
BUSY_S = 0.05
"""Who has taken so much lately has much to say."""
FRAME_S = 5e-5
TOLD_FRAME_S = 2e-4
"""A frame that is no bytes of a log is parsed, and told."""
GENERATION_S = 5e-3
"""It is on this disk before its first byte."""
LOG_BYTE_S = 8e-9
EVENT_BYTE_S = 1e-6
"""An event is parsed, folded, told and kept."""

MAX_GENERATIONS_AT_ONCE = 500
GENERATIONS_PER_S = 1.0
"""Beyond the first ones: no log is rotated more often."""
MAX_TOLD_AT_ONCE = 10_000
TOLD_PER_S = 50.0
"""Beyond the first ones: beats come every 2 s, and whenever this side asks for one."""
MAX_EVENTS_AT_ONCE_BYTES = 8 << 20
EVENTS_PER_S_BYTES = 16 << 10
"""Beyond the first ones, since the run began: twice of what 16 files write that are downloaded at once."""

_going = 0


def heartbeat_s(followed: int) -> float:
    """How often each of so many instances that are *followed* shows life: many of them less often, since each time costs something."""
    return HEARTBEAT_S if followed <= MANY else HEARTBEAT_OF_MANY_S


class Pace:
    """The pace of one run or log, over all its sessions. Enter it while it is followed.

    Args:
        share: Of one processor's time, for all that are going together; None lets it take what it can.
    """

    def __init__(self, *, share: float | None = SHARE) -> None:
        self._share = share
        self._left_s = BURST_S
        self._counted_at = self._began_at = time.monotonic()
        self._generations = 0
        self._told = 0

    def __enter__(self) -> Pace:
        global _going
        _going += 1
        return self

    def __exit__(self, *error: object) -> None:
        global _going
        _going -= 1

    def take(self, frame: frames.Frame, *, is_events: bool) -> None:
        """*frame* has come.

        Args:
            frame: What has come. is_events: Its bytes are events.

        Raises:
            ProtocolFaultError: no agent says so much for so long.
        """
        cost_s = FRAME_S
        if frame.kind == frames.DATA:
            cost_s += len(frame.payload) * (EVENT_BYTE_S if is_events else LOG_BYTE_S)
        else:
            cost_s += TOLD_FRAME_S + len(frame.payload) * EVENT_BYTE_S
            self._told += 1
            if self._told > self._allowed(MAX_TOLD_AT_ONCE, TOLD_PER_S):
                raise ProtocolFaultError(
                    f"a flood: more than {MAX_TOLD_AT_ONCE} messages that are no bytes of a log within moments"
                )
        self._left_s -= cost_s

    def begin_generation(self) -> None:
        """A log begins anew. Raises ProtocolFaultError: no log does so often."""
        self._generations += 1
        self._left_s -= GENERATION_S
        if self._generations > self._allowed(MAX_GENERATIONS_AT_ONCE, GENERATIONS_PER_S):
            raise ProtocolFaultError(
                f"a log that began anew more than {MAX_GENERATIONS_AT_ONCE} times within moments"
            )

    @property
    def heartbeat_s(self) -> float:
        """How often it is to show life, in seconds, beside all that are going together."""
        return heartbeat_s(_going)

    @property
    def is_busy(self) -> bool:
        """The other side has much to say."""
        return self._left_s < BURST_S - BUSY_S

    @property
    def wait_s(self) -> float:
        """So long nothing more is to be taken, in seconds; 0 when it is within its share."""
        now = time.monotonic()
        share = max(self._share / max(_going, 1), LEAST_SHARE) if self._share is not None else 1.0
        self._left_s = min(self._left_s + share * (now - self._counted_at), BURST_S)
        self._counted_at = now
        return max(-self._left_s / share, 0.0) if self._share is not None else 0.0

    def _allowed(self, at_once: int, per_s: float) -> float:
        return at_once + per_s * (time.monotonic() - self._began_at)


def check_events(length_bytes: int, *, age_s: float) -> None:
    """Raises ProtocolFaultError when no agent writes *length_bytes* of events in the *age_s* seconds since its run began."""
    allowed_bytes = MAX_EVENTS_AT_ONCE_BYTES + EVENTS_PER_S_BYTES * max(age_s, 0.0)
    if length_bytes > allowed_bytes:
        raise ProtocolFaultError(
            f"a flood: {length_bytes >> 20} MiB of events within {age_s:.0f} s, and no agent writes so many"
        )
