"""Values of events and outcomes as the views need them: each may be anything, whoever sent it."""

from __future__ import annotations

from collections.abc import Mapping

from . import units
from .text import harmless

Object = Mapping[str, object]
"""A JSON object, such as an event or an outcome."""


def text(of: Object, key: str) -> str:
    """The value at *key* as text that acts on no terminal; empty where there is none."""
    value = of.get(key)
    return "" if value is None else harmless(value)


def number(of: Object, key: str) -> float:
    """The value at *key* as a number to show; 0 where it is none."""
    return units.number(of.get(key))


def child(of: Object, key: str) -> Object:
    """The object at *key*; an empty one where there is none."""
    value = of.get(key)
    return value if isinstance(value, Mapping) else {}


def children(of: Object, key: str) -> list[Object]:
    """The objects in the list at *key*."""
    return [value for value in listed(of, key) if isinstance(value, Mapping)]


def listed(of: Object, key: str) -> list[object]:
    """The list at *key*; an empty one where there is none."""
    value = of.get(key)
    return value if isinstance(value, list) else []
