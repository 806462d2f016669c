"""What each key of a profile means: the text below its field in the source, which only the schema and the documents want.

Reading the source of every model took as long as a third of all that `check` loads, so it is done when somebody asks.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache

from pydantic import BaseModel

from .model import Document
from .notes import fields_of


@cache
def describe(model: type[BaseModel] = Document) -> None:
    """Give every field of *model*, and of all models in it, its `description`; their schemas tell it from then on."""
    for part in dict.fromkeys(_inner_first(model)):
        texts: dict[str, str] = {}
        for base in reversed(part.__mro__):
            if issubclass(base, BaseModel) and base is not BaseModel:
                texts.update(_texts(base))
        for name, field in part.model_fields.items():
            if field.description is None:
                field.description = texts.get(name)
        part.model_rebuild(force=True)


def _inner_first(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in fields_of(model):
        if field.part is not None:
            yield from _inner_first(field.part)
    yield model


@cache
def _texts(model: type[BaseModel]) -> dict[str, str]:
    """The strings that stand below the annotated names of a class."""
    found: dict[str, str] = {}
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    for before, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[before.target.id] = inspect.cleandoc(text)
    return found
