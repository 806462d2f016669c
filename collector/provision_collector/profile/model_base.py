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
    )

    is_merged: ClassVar[bool] = True
    """Does `extends` lay it over the base key by key? Otherwise it replaces the base's as a whole."""
    one_of: ClassVar[tuple[str, ...]] = ()
    """Exactly one of these keys is given."""
    only_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Keys that mean something only beside one of others."""
    of_plan: ClassVar[str] = ""
    """The list of the plan that such entries of a list go to, where that is one of their own."""
    when_empty: ClassVar[str] = ""
    """What to write, if an empty mapping is a mistake."""


class When(Part):
    """Conditions; all that are given must hold, or the item is skipped."""

    when_empty = "give a condition, such as `gpu_memory`, or remove `when`"

    gpu_memory: f.Condition | None = None
    """Memory of the largest GPU, as it is sold: a card of 24 GiB counts as that, though its driver keeps a part of it."""
    gpu_capability: f.CapabilityCondition = ()
    """Compute capability of the GPU: 8.9 is Ada, 9.0 Hopper, 12.0 the RTX 50 series. Of several the lowest. None without a GPU."""
    gpu_count: f.CountCondition = ()
    """How many GPUs there are."""
    gpu_name: f.GpuName = ()
    """What the driver calls a GPU: a part of the name, or with `*`, `?` or `[` a pattern for all of it. `|` stands between several, `!=` before it means that no GPU is called so. Case does not count."""
    disk_free: Annotated[f.Condition, Example('">=100GiB"')] | None = None
    """Free space in the workspace."""
    python: f.PythonCondition = ()
    """Version of Python in the environment, or of the one that it would be made with."""
    secret: f.SecretCondition | None = None
    """This secret must be set."""


class Item(Part):
    """Something that the instance must have."""

    identity: ClassVar[str] = "path"
    """The key that says which item it is: of two with the same, the later one replaces the earlier one."""
    is_folder: ClassVar[bool] = False
    """May others lie below its `path`?"""

    level: f.Level = "required"
    """`critical` comes first and decides `usable`, `required` decides `complete`, `optional` only warns."""
    when: When | None = None
    """Only where all of this holds."""
