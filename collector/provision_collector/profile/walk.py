"""Every part of a profile's tree, with the model that says what it may hold. Pure; the tree may have problems."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from .model import Document
from .notes import FieldNotes, Mark, fields_of
from .tree import Node

Model = type[BaseModel]


def parts(tree: Node, model: Model = Document) -> Iterator[tuple[Model, Node]]:
    """*tree* and all parts inside it, in the order of the language."""
    yield model, tree
    for field in fields_of(model):
        node = tree.get(field.key)
        if node is not None and field.part is not None:
            for below in _values(node, field):
                yield from parts(below, field.part)


def marked(tree: Node, mark: Mark) -> Iterator[Node]:
    """The values of all fields that have *mark*."""
    for model, part in parts(tree):
        for field in fields_of(model):
            node = part.get(field.key)
            if node is not None and field.has(mark):
                yield from _values(node, field)


def _values(node: Node, field: FieldNotes) -> list[Node]:
    if field.is_list:
        return node.items()
    return node.entries() if field.is_open else [node]
