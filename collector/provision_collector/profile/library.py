"""Where the built-in profiles lie, in an installed package and in a checkout."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).parents[1] / "profiles"
_CHECKOUT = Path(__file__).parents[3] / "provision_profiles"


def profiles_folder() -> Path:
    """The folder of the built-in profiles and of ``profile.schema.json``."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def named_profiles() -> dict[str, Path]:
    """The built-in profiles, by name."""
    return {path.stem: path for path in sorted(profiles_folder().glob("*.yaml"))}
