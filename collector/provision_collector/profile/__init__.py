"""Profiles: YAML that people write, read with every problem at its line, and made into the agent's plan.

What reads a profile is loaded when it is asked for: naming the built-in ones needs none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .library import named_profiles, profiles_folder

if TYPE_CHECKING:
    from .compile import compile_plan
    from .load import Profile, load_profile
    from .model_parts import Markers
    from .secrets import secret_values, values_of

__all__ = [
    "Markers",
    "Profile",
    "compile_plan",
    "load_profile",
    "named_profiles",
    "profiles_folder",
    "secret_values",
    "values_of",
]

_MODULES = {
    "Markers": "model_parts",
    "Profile": "load",
    "compile_plan": "compile",
    "load_profile": "load",
    "secret_values": "secrets",
    "values_of": "secrets",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
