"""What stands beside a field's type in `model`: its kind, its name in the plan, an example. Pure.

Everything that treats the fields of a profile alike (the compiler, the rules, the schema, the reference page)
reads these notes. So a new field needs a line in `model`, and none anywhere else on this side.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel

Annotation = object
"""A type as it is written: a class, or anything of `typing`."""


@dataclass(frozen=True)
class Kind:
    """A kind of value."""

    text: str
    """What people call it."""
    example: str
    """As YAML."""
    unit: str = ""
    """What its field in the plan ends with, such as ``_s``: there every value has its unit in its name."""
    none: str = ""
    """The word for "no value", if there is one."""


@dataclass(frozen=True)
class InPlan:
    """The field's name in the plan, where it is not its own with the unit of its kind."""

    name: str


@dataclass(frozen=True)
class Example:
    """An example of this one field, as YAML; otherwise that of its kind."""

    text: str


@dataclass(frozen=True)
class Mark:
    """A property that a field has or has not."""

    name: str


NOT_IN_PLAN = Mark("not in the plan")
"""The agent never sees it, or sees it in another shape."""
AS_WRITTEN = Mark("as written")
"""Its text is taken as it stands: ``${}`` means nothing in it."""
NAMES_SECRET = Mark("names a secret")
"""Its value must be declared under `secrets`."""
MAY_BE_DEFAULT = Mark("may be a default secret")
"""Its value may also be the name of a built-in secret."""


class FieldNotes(NamedTuple):
    """One field of a model."""

    name: str
    """In Python."""
    key: str
    """In YAML."""
    annotation: Annotation
    plan_name: str | None
    """In the plan; None for a field that is not there."""

    def note(self, kind: type[T]) -> T | None:
        """The outermost note of *kind* on the field's type."""
        return next((note for note in notes_in(self.annotation) if isinstance(note, kind)), None)

    def has(self, mark: Mark) -> bool:
        return mark in notes_in(self.annotation)

    @property
    def part(self) -> type[BaseModel] | None:
        """The model of its value, or of the items or entries of its value."""
        return part_in(self.annotation)

    @property
    def is_list(self) -> bool:
        return _has_origin(self.annotation, tuple)

    @property
    def is_open(self) -> bool:
        """Is it a mapping whose keys are up to the profile?"""
        return _has_origin(self.annotation, dict)


T = typing.TypeVar("T")


@functools.cache
def fields_of(model: type[BaseModel]) -> tuple[FieldNotes, ...]:
    """The fields of *model*, inherited ones first."""
    annotations = typing.get_type_hints(model, include_extras=True)
    found = []
    for name, field in model.model_fields.items():
        notes = FieldNotes(name, field.alias or name, annotations[name], None)
        renamed, kind = notes.note(InPlan), notes.note(Kind)
        plan_name = renamed.name if renamed else name.rstrip("_") + (kind.unit if kind else "")
        found.append(notes._replace(plan_name=None if notes.has(NOT_IN_PLAN) else plan_name))
    return tuple(found)


def notes_in(annotation: Annotation) -> Iterator[object]:
    """Every note on *annotation* and on what it is made of, the outermost first, of one type the last first."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *notes = typing.get_args(annotation)
        yield from reversed(notes)
        yield from notes_in(inner)
        return
    for argument in typing.get_args(annotation):
        yield from notes_in(argument)


def part_in(annotation: Annotation) -> type[BaseModel] | None:
    """The first model that *annotation* mentions, as `Repo` in ``tuple[Repo, ...]``."""
    return next((kind for kind in classes_in(annotation) if issubclass(kind, BaseModel)), None)


def classes_in(annotation: Annotation) -> Iterator[type]:
    """Every class that *annotation* mentions."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from classes_in(argument)


def _has_origin(annotation: Annotation, origin: type) -> bool:
    if typing.get_origin(annotation) is origin:
        return True
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        return _has_origin(arguments[0], origin)
    is_optional = type(None) in arguments
    return is_optional and any(_has_origin(argument, origin) for argument in arguments)
