"""Which torchvision and torchaudio go with a torch: each of theirs is built for one of its versions. Pure.

The packages themselves do not always say so: a torchaudio for another torch installs, and cannot be loaded.
"""

from __future__ import annotations

import re
from typing import List, Mapping, NamedTuple, Optional, Sequence

from ...host.probe import normalised


class Fit(NamedTuple):
    """The version of a companion that goes with a torch: exact, or the release line ``0.24``."""

    name: str
    line: str
    exact: Optional[str] = None

    @property
    def requirement(self) -> str:
        """As pip and uv read it."""
        return f"{self.name}=={self.exact}" if self.exact else f"{self.name}=={self.line}.*"


def fit(name: str, torch: str) -> Optional[Fit]:
    """What of the companion *name* goes with the version *torch*; None for other packages, and versions before a release.

    Source: the compatibility tables of pytorch/vision and pytorch/audio. Since torch 2.1 torchaudio has torch's own
    version, and torchvision's second number is torch's and 15 (before 2.0: and 1).
    """
    found = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?", torch.partition("+")[0])
    if found is None or name not in ("torchvision", "torchaudio"):
        return None
    major, minor, patch = int(found[1]), int(found[2]), int(found[3] or 0)
    if major not in (1, 2):
        return None
    if name == "torchvision":
        return Fit(name, f"0.{minor + (15 if major == 2 else 1)}")
    if major == 1:
        return Fit(name, f"0.{minor}")
    exact = f"{major}.{minor}.{patch}" if minor >= 1 else None
    return Fit(name, f"{major}.{minor}", exact)


def requirements(extras: Sequence[str], torch: Optional[str], locked: Mapping[str, str]) -> List[str]:
    """*extras*, those among them that have no version with the one that goes with *torch* (None: not known yet).

    Args:
        locked: Versions that are settled otherwise.
    """
    fits = [None if torch is None or name in locked else fit(name, torch) for name in map(normalised, extras)]
    return [extra if found is None else found.requirement for extra, found in zip(extras, fits)]


def misfit(extras: Sequence[str], installed: Mapping[str, str]) -> Optional[str]:
    """Which of *extras* that have no version is installed for another torch; None when all fit."""
    torch = installed.get("torch", "")
    for name in map(normalised, extras):
        found, wanted = installed.get(name), fit(name, torch)
        if found is not None and wanted is not None and not f"{found}.".startswith(f"{wanted.line}."):
            return f"{name} {found} does not go with torch {torch}"
    return None
