"""The name under which this program is installed; on the package index `provision` is somebody else's."""

from __future__ import annotations

DISTRIBUTION = "provision-gpu"


def version() -> str:
    """The installed version, such as ``0.1.0``."""
    from importlib import metadata

    return metadata.version(DISTRIBUTION)


def install_hint(extra: str) -> str:
    """What to type for the libraries of *extra*, one of the optional dependencies."""
    return f"in a clone of the repository, with the same Python: python3 -m pip install '.[{extra}]'"
