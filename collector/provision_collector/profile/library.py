"""Where the built-in profiles lie, in an installed package and in a checkout."""

from __future__ import annotations

import re
from pathlib import Path

_DESCRIPTION = re.compile(r"^description: *(.+)$", re.MULTILINE)
_INSTALLED = Path(__file__).parents[1] / "profiles"
_CHECKOUT = Path(__file__).parents[3] / "provision_profiles"


def profiles_folder() -> Path:
    """The folder of the built-in profiles and of ``profile.schema.json``."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def named_profiles() -> dict[str, Path]:
    """The built-in profiles, by name."""
    return {path.stem: path for path in sorted(profiles_folder().glob("*.yaml"), key=lambda path: path.stem)}


def descriptions() -> dict[str, str]:
    """What each built-in profile says of itself, by name; read without reading all of it, so that a list is quick."""
    found = {name: _DESCRIPTION.search(path.read_text("utf-8")) for name, path in named_profiles().items()}
    return {name: match[1].strip() if match is not None else "" for name, match in found.items()}
