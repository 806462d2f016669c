"""The fields of events that are about an instance, whatever is done on it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from .event_bodies import MAX_BYTES_PER_S, MAX_KEY_CHARS, MAX_SECONDS, Body
from .parsing import bounded


@dataclass(frozen=True)
class InstanceMeasured(Body):
    """What a plan's `require` had measured; what it does not ask for is left out."""

    duration_s: Optional[float] = bounded(None, low=0, high=MAX_SECONDS, always=True)
    line_bytes_per_s: Optional[int] = bounded(None, low=0, high=MAX_BYTES_PER_S)
    line_host: Optional[str] = bounded(None, max_chars=256)
    disk_write_bytes_per_s: Optional[int] = bounded(None, low=0, high=MAX_BYTES_PER_S)
    memory_bytes: Optional[int] = bounded(None, low=0)
    gpu_used_bytes: Optional[int] = bounded(None, low=0)
    gpu_errors: Optional[Tuple[str, ...]] = bounded(None, max_entries=256)
    earlier: Optional[bool] = None
    """Line and disk were measured by an earlier run since the machine was started."""


@dataclass(frozen=True)
class ServiceReached(Body):
    """Whether a service's public address answers from where the run is watched."""

    item: str = bounded(max_chars=MAX_KEY_CHARS)
    url: Optional[str] = bounded(None, always=True)
    reachable: Optional[bool] = bounded(None, always=True)
    reason: Optional[str] = None


@dataclass(frozen=True)
class AccessLost(Body):
    """The instance takes the key no more, though an open connection goes on."""

    host: Optional[str] = bounded(None, max_chars=MAX_KEY_CHARS, always=True)
    cause: Optional[str] = bounded(None, always=True)
