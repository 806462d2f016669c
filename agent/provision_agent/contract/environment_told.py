"""For which machine packages are chosen, and which ones an environment would get there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from .parsing import bounded
from .plan_packages import LockedWheel
from .plan_parts import bytes_field, count_field
from .steps import LEVELS


@dataclass(frozen=True)
class EnvironmentTarget:
    """A machine that packages are chosen for: another one than that which chooses."""

    python: str = bounded(pattern=r"3\.\d{1,2}")
    platform: str = bounded(pattern=r"linux-(x86_64|aarch64)")
    accelerator: str = bounded(pattern="cpu|cu[0-9]{2,3}")


@dataclass(frozen=True)
class LineLeftOut:
    """A line of a node's requirements that an environment goes without, and why."""

    file: str = bounded(max_chars=4096)
    line: int = bounded(low=0)
    text: str = bounded(max_chars=4096)
    message: str = ""


@dataclass(frozen=True)
class EnvironmentTold:
    """What the environment of a plan gets. `basis` is ``resolved``, ``locked`` (the plan says it itself) or ``unknown``.

    Of an unknown one `message` says why; with `class_` it cannot be had as the plan wants it: a run would fail.
    """

    basis: str = bounded(one_of=("resolved", "locked", "unknown"))
    python: str = bounded("", max_chars=16)
    platform: str = bounded("", max_chars=64)
    accelerator: str = bounded("", max_chars=16)
    torch: str = bounded("", max_chars=256)
    """The build that was chosen and why, as people read it."""
    count: Optional[int] = count_field(low=0)
    """All packages; what of them is there already counts in none of the sums."""
    present: int = count_field(0, low=0)
    fetch_bytes: Optional[int] = bytes_field()
    unpacked_bytes: Optional[int] = bytes_field()
    unknown_sizes: int = count_field(0, low=0)
    message: str = ""
    class_: Optional[str] = bounded(None, max_chars=64, alias="class")
    level: str = bounded("critical", one_of=LEVELS)
    hint: str = ""
    left_out: Tuple[LineLeftOut, ...] = bounded((), max_entries=10_000)
    wheels: Tuple[LockedWheel, ...] = bounded((), max_entries=10_000)
    """Only where they are to be pinned."""
    unpinned: Tuple[str, ...] = bounded((), max_entries=10_000, max_chars=512)
    """Those that were to be pinned, and have no address and sha256 that another machine could use."""
