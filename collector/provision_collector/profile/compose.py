"""`extends`: one profile laid over another.

Scalars override, mappings merge key by key, lists append, an item with the same name or identity replaces the one
below in its place, ``{name: X, remove: true}`` and null remove. Marks are kept: every value still knows the file
that it came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from provision_agent.contract.plan_parts import download_key

from .model import SECTIONS, Document
from .model_base import Part
from .notes import fields_of
from .paths import comparable
from .tree import Node, Problem
from .variables import suggestion

LISTS = (*SECTIONS, "layers")
"""The lists whose entries can be named, replaced and removed, by their key."""
REMOVE = "remove"
"""The key of an entry that takes away the one below it."""
_SAYS_WHICH = ("name", "path", "url")
"""What else such an entry may hold."""
_REPLACED_WHOLE = frozenset(
    field.key
    for field in fields_of(Document)
    if field.part is not None and issubclass(field.part, Part) and not field.part.is_merged
)


def merge(base: Node | None, over: Node, problems: list[Problem], section: str = "") -> Node:
    """Lay one profile on another.

    Args:
        base: What is below; None for nothing.
        over: What comes on it.
        problems: Takes what cannot be done: an entry that removes what is not there.
        section: The key under which both stand.
    """
    if isinstance(over.value, dict):
        below = base.value if base is not None and isinstance(base.value, dict) else {}
        merged = dict(below)
        for key, node in over.value.items():
            if node.value is None:
                merged.pop(key, None)
            elif key in _REPLACED_WHOLE:
                merged[key] = node
            else:
                merged[key] = merge(merged.get(key), node, problems, key)
        return replace(over, value=merged)
    if isinstance(over.value, list) and (section in LISTS or isinstance(base and base.value, list)):
        return replace(over, value=_laid_on(base.items() if base else [], over.value, section, problems))
    return over


def removals(item: Node, section: str) -> Iterator[Problem]:
    """What is wrong with the `remove` of an entry of *section*, whatever it is laid on."""
    said = _removal(item, section)
    if said is None:
        return
    if said.value is not True:
        yield Problem(said.mark, f"`{REMOVE}` is `true`, or is left out; here it is `{said.raw or '…'}`")
    if _name(item) is None and identity(section, item) is None:
        key = SECTIONS[section].identity if section in SECTIONS else "name"
        wanted = "`name`" if key == "name" else f"`name` or `{key}`"
        yield Problem(item.mark, f"an entry that removes another one says which, by its {wanted}")
    for key, node in item.value.items() if isinstance(item.value, dict) else ():
        if key not in (REMOVE, *_SAYS_WHICH):
            message = (
                f"`{key}` means nothing beside `{REMOVE}: true`; to replace an item, leave out `{REMOVE}`"
            )
            yield Problem(node.key_mark or node.mark, message)


def identity(section: str, item: Node) -> str | None:
    """What makes *item* of *section* this item and no other; None if it does not say.

    What goes into a folder (a path that ends in ``/``) takes its name there, so its source counts too.
    """
    key = SECTIONS[section].identity if section in SECTIONS else ""
    text = item.text(key)
    if text is None or key != "path":
        return text
    path = comparable(text)
    if SECTIONS[section].is_folder:
        return path.rstrip("/")
    return download_key(path, item.text("url") or item.text("from") or "")


def _laid_on(below: list[Node], above: list[Node], section: str, problems: list[Problem]) -> list[Node]:
    merged: list[Node | None] = list(below)
    present = {repr(item.data()) for item in below}
    known: dict[tuple[str, str], list[int]] = {}
    for place, item in enumerate(below):
        for key in _keys(section, item):
            known.setdefault(key, []).append(place)
    taken: set[int] = set()
    for item in above:
        free = ([place for place in known.get(key, ()) if place not in taken] for key in _keys(section, item))
        places = _replaced(item, below, next(filter(None, free), []))
        taken.update(places)
        for place in places:
            merged[place] = None
        if _removal(item, section) is None:
            if places:
                merged[places[0]] = item
            elif section in SECTIONS or repr(item.data()) not in present:
                merged.append(item)
        elif places:
            continue
        elif (label := _name(item) or item.text("path")) is not None:
            problems.append(Problem(item.mark, _nothing_to_remove(label, below, section)))
    return [item for item in merged if item is not None]


def _replaced(item: Node, below: list[Node], found: list[int]) -> list[int]:
    """The places in *below* of what *item* replaces, or takes away: all variants at *found*, which it is known by.

    Of variants, which differ in their `when`, one with the same `when` alone.
    """
    when = _when(item)
    same = [place for place in found if _when(below[place]) == when is not None]
    return same[:1] or found


def _when(item: Node) -> object:
    when = item.get("when")
    return None if when is None else when.data()


def _keys(section: str, item: Node) -> list[tuple[str, str]]:
    """What an entry of *section* can be known by, the surest first."""
    if section not in LISTS:
        return []
    told = (("name", _name(item)), ("identity", identity(section, item)))
    return [(kind, text) for kind, text in told if text is not None]


def _removal(item: Node, section: str) -> Node | None:
    return item.get(REMOVE) if section in LISTS else None


def _name(item: Node) -> str | None:
    return item.text("name")


def _nothing_to_remove(label: str, below: list[Node], section: str) -> str:
    if any(label in (_name(item), item.text("path")) for item in below):
        return f"`{label}` of the `{section}` below is removed or replaced above already"
    known = {text for item in below for text in (_name(item), item.text("path")) if text is not None}
    near = suggestion(label, known) or (f"; there are {', '.join(sorted(known))}" if known else "")
    return f"there is no `{label}` in the `{section}` below to remove{near}"
