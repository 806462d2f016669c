"""What every mapping of a profile is: a strict model, whose class attributes say what its keys mean together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict

from . import fields as f
from .notes import NOT_IN_PLAN, Example

ItemName = Annotated[f.Filled | None, NOT_IN_PLAN, Example("base model")]
"""What an item is called in its own profile and in those that extend it; no part of the work."""


class Part(BaseModel):
    """A mapping of a profile: no unknown keys, no conversions."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    is_merged: ClassVar[bool] = True
    """Does `extends` lay it over the base key by key? Otherwise it replaces the base's as a whole."""
    one_of: ClassVar[tuple[str, ...]] = ()
    """Exactly one of these keys is given."""
    only_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Keys that mean something only beside one of others."""
    when_empty: ClassVar[str] = ""
    """What to write, if an empty mapping is a mistake."""


class Item(Part):
    """Something that the instance must have."""

    identity: ClassVar[str] = "path"
    """The key that says which item it is: of two with the same, the later one replaces the earlier one."""
    is_folder: ClassVar[bool] = False
    """May others lie below its `path`?"""

    level: f.Level = "required"
    """`critical` comes first and decides `usable`, `required` decides `complete`, `optional` only warns."""
