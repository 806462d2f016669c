"""How an instance is after its run: what is asked, and what it answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from .parsing import bounded
from .version import FORMAT


@dataclass(frozen=True)
class HealthRequest:
    """How are the services, the cards and the disk of `workspace`? `gpus`: so many cards there were at first."""

    workspace: str = bounded(max_chars=4096)
    gpus: int = bounded(0, low=0, high=1024)


@dataclass(frozen=True)
class ServiceHealth:
    """One service that a run left; without a `problem` it runs, and answers as its profile says."""

    name: str = bounded(max_chars=4096)
    state: str = bounded("", max_chars=64)
    problem: str = bounded("", max_chars=4096)


@dataclass(frozen=True)
class HealthAnswer:
    """What is wrong, one sentence for each; nothing of a healthy instance."""

    problems: Tuple[str, ...] = bounded((), max_entries=256, max_chars=4096)
    services: Tuple[ServiceHealth, ...] = bounded((), max_entries=256)
    disk_free_bytes: Optional[int] = bounded(None, low=0)
    gpu_used_bytes: Optional[int] = bounded(None, low=0)
    format: int = FORMAT
