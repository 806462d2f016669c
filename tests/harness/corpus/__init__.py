"""A corpus of what people have already: 40 scripts, 20 manifests, 10 snapshots, 60 workflows, each with what it holds.

Everything is made here, in the style of what is shared in public; the same at every call.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from . import scripts, scripts_more
from .manifests import MANIFESTS, NODE_MAP, as_text, snapshot
from .pick import Pick
from .workflows import CONTENTS, FILES

__all__ = ["KINDS", "NODE_MAP", "Entry", "entries"]
KINDS = ("script", "manifest", "snapshot", "workflow")


@dataclass(frozen=True)
class Entry:
    """One file."""

    kind: str
    name: str
    suffix: str
    content: bytes
    holds: tuple[str, ...]
    """``url:…``, ``repo:…``, ``pip:…``, ``apt:…``; and ``named:…``, what has no source and must be listed."""

    def write(self, folder: Path) -> Path:
        """Write the file into *folder*."""
        path = folder / f"{self.name}.{self.suffix}"
        path.write_bytes(self.content)
        return path


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All of them."""
    made: list[Entry] = []
    for script in (*scripts.SCRIPTS, *scripts_more.SCRIPTS):
        pick = Pick(script.__name__)
        text = script(pick)
        made.append(Entry("script", script.__name__, "sh", text.encode(), tuple(pick.holds)))
    for number, manifest in enumerate(MANIFESTS):
        pick = Pick(manifest.__name__)
        data = as_text(manifest(pick), number).encode()
        made.append(Entry("manifest", f"manifest_{manifest.__name__}", "yaml", data, tuple(pick.holds)))
    for number in range(10):
        pick = Pick(f"snapshot_{number}")
        data = json.dumps(snapshot(number, pick), indent=4).encode()
        made.append(Entry("snapshot", f"snapshot_{number}", "json", data, tuple(pick.holds)))
    for content in CONTENTS:
        for file in FILES:
            name = f"{content.__name__}_{file.__name__}"
            pick = Pick(name)
            data, suffix = file(content(pick))
            made.append(Entry("workflow", name, suffix, data, tuple(pick.holds)))
    return tuple(made)
