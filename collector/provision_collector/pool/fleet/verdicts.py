"""What many verdicts come to: the exit code of a fleet, and which failures are one failure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

WORST_FIRST = (70, 74, 3, 2, 11, 13, 10, 15, 14, 12, 124, 1, 4, 130, 5, 0)
"""Exit codes; the fleet's is the first of these that any of its instances has."""
GOOD = (0, 5)
"""Codes of instances that can be used."""


def worst(codes: Iterable[int | None]) -> int:
    """The exit code of a fleet. Instances that were held have none of their own."""
    known = [code for code in codes if code is not None]
    return min(known, key=lambda code: WORST_FIRST.index(code) if code in WORST_FIRST else 0, default=0)


def fingerprint(outcome: Mapping[str, Any]) -> str:
    """What went wrong, without what differs from machine to machine."""
    verdict, errors = str(outcome["verdict"]), outcome["errors"]
    if not errors:
        return verdict
    first = next((error for error in errors if error.get("level") == "critical"), errors[0])
    return f"{verdict}: {first['class']} {first['item']}"
