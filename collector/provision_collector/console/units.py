"""Numbers as people read them: bytes in powers of 1000, durations in at most two units."""

from __future__ import annotations

import math

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def number(value: object) -> float:
    """*value* of an event as a number to show; 0 for what is none, whoever sent it."""
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
    except OverflowError:
        return 0.0


def size(count: float) -> str:
    """``512 B``, ``1.5 kB``, ``212 MB``, ``6.9 GB``: three digits at most, thousands as disks are sold."""
    value, unit = _scaled(count)
    return f"{_digits(value, unit)} {_BYTES[unit]}"


def size_of(done: float, total: float) -> str:
    """``3.4/6.9 GB``: both in the unit of *total*."""
    value, unit = _scaled(total)
    done_in_unit = min(done / 1000**unit, value)
    as_total = f"{done_in_unit:.1f}" if "." in _digits(value, unit) else f"{done_in_unit:.0f}"
    return f"{as_total}/{_digits(value, unit)} {_BYTES[unit]}"


def percent(done: float, total: float) -> str:
    """``48%``, and never more than ``100%``."""
    return f"{int(min(done / total, 1.0) * 100)}%"


def speed(bytes_per_s: float) -> str:
    """``164 MB/s``."""
    return f"{size(bytes_per_s)}/s"


def duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``1 m 05 s``, ``2 h 03 m``, ``3 d 04 h``."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def waiting(seconds: float) -> str:
    """A `duration` that is still counting: whole seconds, so that it moves calmly."""
    return duration(seconds) if seconds >= 9.95 else f"{max(seconds, 0):.0f} s"


def coarse(seconds: float) -> str:
    """A `duration` that nobody watches: whole minutes as long as there are many of them."""
    return f"{int(seconds // 60)} m" if 600 <= seconds < 3600 else duration(seconds)


def clock(seconds: float) -> str:
    """``00:42``, ``1:02:03``: a place in time."""
    whole = max(int(seconds), 0)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes:02d}:{whole % 60:02d}"


def counted(count: int, noun: str) -> str:
    """``1 file``, ``3 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _scaled(count: float) -> tuple[float, int]:
    unit = 0
    while count >= 999.5 and unit < len(_BYTES) - 1:
        count, unit = count / 1000, unit + 1
    return count, unit


def _digits(value: float, unit: int) -> str:
    return f"{value:.1f}" if unit and value < 99.95 else f"{value:.0f}"
