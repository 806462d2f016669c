"""Profiles: YAML that people write, read with every problem at its line, and made into the agent's plan."""

from .compile import compile_plan
from .library import named_profiles, profiles_folder
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
