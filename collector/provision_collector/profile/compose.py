"""`extends`: one profile laid over another.

Scalars override, mappings merge key by key, lists append, an item with the same identity replaces the one
below in its place, null removes. Marks are kept: every value still knows the file that it came from.
"""

from __future__ import annotations

from dataclasses import replace

from provision_agent.contract.plan import download_key

from .model import SECTIONS, Document
from .model_base import Part
from .notes import fields_of
from .paths import comparable
from .tree import Node

_REPLACED_WHOLE = frozenset(
    field.key
    for field in fields_of(Document)
    if field.part is not None and issubclass(field.part, Part) and not field.part.is_merged
)


def merge(base: Node | None, over: Node, section: str = "") -> Node:
    """*over* laid on *base*; *section* is the key under which both stand."""
    if isinstance(over.value, dict):
        below = base.value if base is not None and isinstance(base.value, dict) else {}
        merged = dict(below)
        for key, node in over.value.items():
            if node.value is None:
                merged.pop(key, None)
            elif key in _REPLACED_WHOLE:
                merged[key] = node
            else:
                merged[key] = merge(merged.get(key), node, key)
        return replace(over, value=merged)
    if isinstance(over.value, list) and base is not None and isinstance(base.value, list):
        return replace(over, value=_append(base.value, over.value, section))
    return over


def identity(section: str, item: Node) -> str | None:
    """What makes *item* of *section* this item and no other; None if it does not say.

    Downloads into a folder (a path that ends in ``/``) take the server's name, so their URL counts too.
    """
    key = SECTIONS[section].identity if section in SECTIONS else ""
    text = item.text(key)
    if text is None or key != "path":
        return text
    path = comparable(text)
    return download_key(path, item.text("url") or "")


def _append(below: list[Node], above: list[Node], section: str) -> list[Node]:
    merged = list(below)
    places = {
        name: place for place, item in enumerate(below) if (name := identity(section, item)) is not None
    }
    present = {repr(item.data()) for item in below}
    for item in above:
        name = identity(section, item)
        place = places.pop(name, None) if name is not None else None
        if place is not None:
            merged[place] = item
        elif section in SECTIONS or repr(item.data()) not in present:
            merged.append(item)
    return merged
