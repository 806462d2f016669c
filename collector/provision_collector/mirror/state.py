"""Where each generation of a remote file begins in its mirror: the little that the mirror's length cannot say.

Written by atomic rename *before* the first byte of a new generation, so that whatever moment this process is
killed at, length and bases together still say which remote byte comes next.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from provision_agent import protocol


class MirrorState:
    """The sidecar of a run's mirrors, ``….state.json``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, dict[str, int]] = {}
        self.gaps: list[dict[str, Any]] = []
        self._load()

    def generation(self, name: str) -> tuple[int, int]:
        """``(generation, base)`` of mirror *name*: its byte *base* is byte 0 of that generation."""
        entry = self._files.get(name, {})
        return entry.get("generation", 0), entry.get("base", 0)

    def begin_generation(self, name: str, generation: int, base: int) -> None:
        """Record that what is appended from *base* on belongs to *generation*; on the disk when this returns."""
        self._files[name] = {"generation": generation, "base": base}
        self._save()

    def add_gap(self, gap: dict[str, Any]) -> None:
        """Record bytes that cannot be had any more."""
        self.gaps.append(gap)
        self._save()

    def _load(self) -> None:
        try:
            data = json.loads(self._path.read_text())
            if data["format"] in protocol.SUPPORTED_FORMATS:
                self._files = {str(name): dict(entry) for name, entry in data["files"].items()}
                self.gaps = list(data.get("gaps", []))
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            self._path.replace(self._path.with_name(self._path.name + ".unreadable"))

    def _save(self) -> None:
        data = {"format": protocol.FORMAT, "files": self._files, "gaps": self.gaps}
        temporary = self._path.with_name(self._path.name + ".tmp")
        with temporary.open("w") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
