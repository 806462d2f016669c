"""What a plan asks of the instance itself, before anything large is begun on it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from .parsing import bounded
from .plan_parts import Bound, Compared, bytes_field, seconds_field


@dataclass(frozen=True)
class Require:
    """All that is given must hold of the instance, or the run ends as `failed` and another instance is wanted."""

    gpu_name: Tuple[str, ...] = bounded((), max_entries=16, max_chars=256)
    gpu_memory: Optional[Bound] = None
    gpu_count: Tuple[Compared, ...] = bounded((), max_entries=16)
    gpu_capability: Tuple[Compared, ...] = bounded((), max_entries=16)
    line_bytes_per_s: Optional[int] = bytes_field()
    line_from: Optional[str] = None
    """What the line is measured against; None: the sources of the plan's own downloads."""
    disk_write_bytes_per_s: Optional[int] = bytes_field()
    gpu_free: bool = False
    gpu_errors: str = bounded("any", one_of=("any", "none"))
    memory_bytes: Optional[int] = bytes_field()
    within_s: float = seconds_field(60.0)
    """All of it is measured within this."""
