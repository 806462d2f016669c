"""Failures that have one cause, told once: what they say is the same but for the names of their items. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from provision_agent.contract.failures import FAILURES
from provision_agent.contract.steps import LEVELS

from .values import Object, text

SHOWN_ITEMS = 8
_ORDER = {"run": 0, "host": 1, "item": 2}
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://([^/\s`'\",;)]*)[^\s`'\",;)]*")


class Cause(NamedTuple):
    """One cause, with the errors that it made, in the order in which they came."""

    errors: tuple[Object, ...]

    @property
    def first(self) -> Object:
        """The error that came first, of those that matter most."""
        return min(self.errors, key=_level)

    def names(self, most: int = SHOWN_ITEMS) -> str:
        """The items that it made fail: ``a, b and 3 more``."""
        names = list(dict.fromkeys(text(error, "item") or "error" for error in self.errors))
        if len(names) > most:
            return f"{', '.join(names[:most])} and {len(names) - most} more"
        return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def causes(errors: Iterable[Object]) -> list[Cause]:
    """The causes of *errors*: what concerns the whole run first, then a host, then an item; what only follows others last."""
    found: dict[tuple[str, ...], list[Object]] = {}
    for error in errors:
        words = (_without_names(text(error, "message"), error), _without_names(text(error, "hint"), error))
        found.setdefault((text(error, "class"), *words), []).append(error)
    return sorted((Cause(tuple(alike)) for alike in found.values()), key=_rank)


def _rank(cause: Cause) -> tuple[bool, int, int]:
    known = FAILURES.get(text(cause.first, "class"))
    follows = known is not None and known.follows_others
    return follows, _level(cause.first), _ORDER.get(known.scope if known else "", 2)


def _level(error: Object) -> int:
    level = text(error, "level")
    return LEVELS.index(level) if level in LEVELS else len(LEVELS) - 1


def _without_names(words: str, error: Object) -> str:
    """*words* without the item's name, its file's name, and the paths of URLs."""
    item = text(error, "item")
    words = _URL.sub(lambda match: f"://{match[1]}/…", words)
    for name in (item, item.rstrip("/").rpartition("/")[2]):
        if name:
            words = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "…", words)
    return words
