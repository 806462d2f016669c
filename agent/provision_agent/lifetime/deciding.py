"""When an instance is ended: from what was measured to what is due. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional, Sequence

from ..contract.lifetime_told import ENDED, ENDING, HELD, IDLE, MAX, SOON_S, WAITS, LifetimeTold
from .records import LifetimeOrder, LifetimeState
from .uptime import TRUSTED_GAP_S, Moment

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
"""Between two attempts of a hook that failed: they go on until one succeeds, since an instance that lives costs."""


def measured(state: LifetimeState, now: Moment, busy: str, up_since_s: float) -> LifetimeState:
    """*state* at *now*, when *busy* is what keeps the instance from being idle; empty: nothing."""
    if not state.moment.boot:
        return replace(state, moment=now, busy=busy)
    passed_s = now.since(state.moment, up_since_s)
    was_seen = passed_s <= TRUSTED_GAP_S and now.boot == state.moment.boot
    idle_s = 0.0 if busy or not was_seen else state.idle_s + passed_s
    due_s = state.due_s + passed_s if state.reason else 0.0
    elapsed_s = state.elapsed_s + passed_s
    return replace(state, moment=now, elapsed_s=elapsed_s, idle_s=idle_s, due_s=due_s, busy=busy)


def extended(state: LifetimeState, extensions: Sequence[float]) -> LifetimeState:
    """*state* with those of all *extensions*, in seconds, that are new."""
    for for_s in extensions[state.extensions :]:
        until_s = max(state.not_idle_before_s, state.elapsed_s + for_s)
        state = replace(state, extended_s=state.extended_s + for_s, not_idle_before_s=until_s, is_told=False)
    return replace(state, extensions=max(len(extensions), state.extensions))


def idle_in_s(order: LifetimeOrder, state: LifetimeState) -> Optional[float]:
    """Until the instance is ended for being idle, if nothing happens; None: never."""
    wanted_s = None if order.lifetime is None else order.lifetime.idle_s
    if wanted_s is None:
        return None
    return max(wanted_s - state.idle_s, state.not_idle_before_s - state.elapsed_s)


def max_in_s(order: LifetimeOrder, state: LifetimeState) -> Optional[float]:
    """Until the instance is ended whatever happens; None: never."""
    wanted_s = None if order.lifetime is None else order.lifetime.max_s
    return None if wanted_s is None else wanted_s + state.extended_s - state.elapsed_s


def reason(order: LifetimeOrder, state: LifetimeState) -> str:
    """Why the instance is to be ended now; empty: it is not."""
    most_s, idle_s = max_in_s(order, state), idle_in_s(order, state)
    if most_s is not None and most_s <= 0:
        return MAX
    return IDLE if idle_s is not None and idle_s <= 0 and not state.busy else ""


def overdue_s(order: LifetimeOrder, state: LifetimeState) -> float:
    """How long ago the instance was to be ended whatever happens; 0 where it is not due for that."""
    return max(0.0, -(max_in_s(order, state) or 0.0))


def held_in_s(order: LifetimeOrder, state: LifetimeState) -> float:
    """How long results that are not home may hold a hook back yet; nothing that comes meanwhile holds `max` back once more."""
    if not state.reason or not state.not_home:
        return 0.0
    return max(0.0, order.outputs_keep_s - max(state.due_s, overdue_s(order, state)))


def is_soon(order: LifetimeOrder, state: LifetimeState) -> bool:
    """Whether its end by `max` is near."""
    left_s = max_in_s(order, state)
    return left_s is not None and left_s <= SOON_S


def pause_s(attempts: int) -> float:
    """How long to wait after so many attempts that failed."""
    return min(FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 20), LONGEST_PAUSE_S)


def told(order: LifetimeOrder, state: LifetimeState, *, is_running: bool) -> LifetimeTold:
    """What a user is told of it."""
    held_s = held_in_s(order, state) if state.not_home and state.reason else None
    how = WAITS
    if state.done:
        how = ENDED
    elif state.reason:
        how = HELD if held_s else ENDING
    idle_s = idle_in_s(order, state)
    return LifetimeTold(
        run=order.run,
        state=how,
        is_running=is_running,
        busy=state.busy,
        idle_s=state.idle_s,
        idle_in_s=None if state.busy and state.idle_s == 0 else idle_s,
        max_in_s=max_in_s(order, state),
        reason=state.reason,
        not_home=state.not_home,
        held_in_s=held_s,
        keep_s=order.outputs_keep_s if order.outputs else None,
        attempts=state.attempts,
        said=state.said,
    )
