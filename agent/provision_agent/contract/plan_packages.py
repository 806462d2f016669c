"""What a plan says of packages beside the layers: where they come from, and exactly which ones a lock allows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from .parsing import bounded
from .plan_parts import Basic, bytes_field


@dataclass(frozen=True)
class PackageIndex:
    """An index that is asked besides those that the instance has configured. `basic` goes to its https host only."""

    url: str
    basic: Optional[Basic] = None


@dataclass(frozen=True)
class LockedWheel:
    """One wheel, as a lock pins it. `unpacked_bytes` None: nobody could tell."""

    name: str = bounded(max_chars=256)
    """Normalised."""
    version: str = bounded(max_chars=256)
    url: str = bounded()
    sha256: str = bounded(pattern="[0-9a-f]{64}")
    size_bytes: Optional[int] = bytes_field()
    unpacked_bytes: Optional[int] = bytes_field()


@dataclass(frozen=True)
class LockedEnvironment:
    """All wheels of an environment, and for what they were chosen; nothing else is installed."""

    python: str = bounded(pattern=r"\d{1,2}\.\d{1,2}")
    platform: str = bounded(max_chars=64)
    """Such as ``linux-x86_64``."""
    accelerator: str = bounded(pattern="none|cpu|cu[0-9]{2,3}")
    """Which build of torch; ``none``: no layer asks for torch."""
    wheels: Tuple[LockedWheel, ...] = bounded((), max_entries=10_000)
