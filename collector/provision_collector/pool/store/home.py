"""The name of a server's folder: another server that finds it in the database knows that the mirrors are not here."""

from __future__ import annotations

import secrets
from pathlib import Path

from ...storage import create_atomically

FILE = "home"


def name_of(folder: Path) -> str:
    """The name of *folder*, which stands in it. May block."""
    path = folder / FILE
    if not path.exists():
        create_atomically(path, secrets.token_hex(16))
    return path.read_text().strip()
