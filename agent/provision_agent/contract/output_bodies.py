"""The fields of the events of outputs: files that come home from an instance. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .event_bodies import MAX_BYTES_PER_S, MAX_KEY_CHARS, Body, Failed
from .parsing import bounded


@dataclass(frozen=True)
class OutputsTold(Body):
    files: Optional[int] = bounded(None, always=True, low=0)
    """So many have come to this machine."""
    bytes: Optional[int] = bounded(None, always=True, low=0)
    """Theirs, together."""
    left: Optional[int] = bounded(None, always=True, low=0)
    """So many are known there and not here yet."""


@dataclass(frozen=True)
class OutputsProgress(OutputsTold):
    bytes_per_s: Optional[float] = bounded(None, always=True, low=0, high=MAX_BYTES_PER_S)
    path: Optional[str] = bounded(None, max_chars=MAX_KEY_CHARS)
    """The file that came last, as this machine calls it."""


@dataclass(frozen=True)
class OutputFailed(Failed):
    item: str = bounded("", always=True, max_chars=MAX_KEY_CHARS)
    """The file, as the instance calls it."""
