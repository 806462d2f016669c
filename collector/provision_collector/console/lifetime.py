"""When an instance is ended by itself, in words. Pure."""

from __future__ import annotations

from provision_agent.contract.lifetime_told import ENDED, ENDING, HELD, LifetimeTold
from provision_agent.contract.parsing import ParseError, parse

from .text import harmless
from .units import coarse, counted


def ends_text(told: object) -> str:
    """What people read of *told*, a `LifetimeTold` as JSON; empty where nothing is told."""
    if not isinstance(told, dict):
        return ""
    try:
        return harmless(words_of(parse(LifetimeTold, told, "lifetime")))
    except ParseError:
        return ""


def words_of(told: LifetimeTold) -> str:
    """*told* in words."""
    if told.state == ENDED:
        return f"its hook has ended it ({told.said})"
    if not told.is_running:
        return "nobody measures its time any more: `provision up` with the same profile does"
    if told.state == HELD:
        held = f", {coarse(told.held_in_s)} at most" if told.held_in_s is not None else ""
        return f"as soon as {counted(told.not_home, 'result')} are home{held} ({told.reason})"
    if told.state == ENDING:
        tried = f", tried {counted(told.attempts, 'time')}: {told.said}" if told.attempts else ""
        return f"now ({told.reason}){tried}"
    parts = []
    if told.idle_in_s is not None:
        parts.append(f"in {coarse(max(0.0, told.idle_in_s))} if it stays idle")
    elif told.busy:
        parts.append(f"not as long as there is {told.busy}")
    if told.max_in_s is not None:
        later = f" ({coarse(told.keep_s)} later at most while results are not home)" if told.keep_s else ""
        parts.append(f"in {coarse(max(0.0, told.max_in_s))} whatever goes on{later}")
    return "; ".join(parts)
