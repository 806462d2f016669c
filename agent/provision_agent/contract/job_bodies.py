"""The fields of the events of jobs, and of what ends the instance. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .event_bodies import MAX_SECONDS, Body, Item, ItemFailed, ItemFinished
from .parsing import bounded


@dataclass(frozen=True)
class JobStarted(Item):
    pid: Optional[int] = bounded(None, always=True, low=0)
    adopted: Optional[bool] = bounded(None)
    """It was begun by an agent before this one, which died."""


@dataclass(frozen=True)
class JobFinished(ItemFinished):
    exit_status: Optional[int] = bounded(None, always=True)


@dataclass(frozen=True)
class JobFailed(ItemFailed):
    exit_status: Optional[int] = bounded(None)
    """Negative: the signal that ended it. Left out where nobody knows it."""
    duration_s: Optional[float] = bounded(None, low=0, high=MAX_SECONDS)


@dataclass(frozen=True)
class LifetimeEnding(Body):
    reason: str = bounded("", max_chars=64)
    in_s: float = bounded(0.0, low=0, high=MAX_SECONDS)
