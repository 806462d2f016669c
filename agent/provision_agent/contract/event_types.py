"""What the name of an event means: the row of the registry in `events`. Pure."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import NamedTuple, Optional, Tuple, Type

from .event_bodies import Body

AGENT, COLLECTOR, BOTH = "agent", "collector", "both"


class EventType(NamedTuple):
    """What an event's name means."""

    body: Type[Body]
    writer: str
    """`AGENT`, `COLLECTOR` or `BOTH`."""
    text: str
    """One sentence for people."""
    group: str = ""
    """The kind of its item: one of `GROUPS`; empty for an event of no item."""
    state: Optional[str] = None
    """The state that its item is in from now on; None leaves it."""

    @property
    def always(self) -> Tuple[str, ...]:
        """The fields, by their keys, that its writer always writes."""
        keys = (
            str(each.metadata.get("alias", each.name))
            for each in fields(self.body)
            if each.metadata.get("always") or each.default is MISSING
        )
        return (*keys, *(("key",) if self.group in ("downloads", "uploads") else ()))
