"""Folders that need not exist yet."""

from __future__ import annotations

import os


def nearest_folder(path: str) -> str:
    """The closest folder above *path* that exists; *path* itself if it does."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or ("/" if os.path.isabs(path) else ".")
    return path
