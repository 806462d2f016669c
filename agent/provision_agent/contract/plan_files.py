"""Items of a plan whose bytes are on the other side: files that go to the instance. Pure, shared by both halves."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Optional, Sequence, Tuple

from .parsing import bounded
from .plan_parts import When, download_key, level_field

MAX_PATTERNS = 1000


@dataclass(frozen=True)
class Upload:
    """A file or a folder of whoever orders the run. A `path` that ends in ``/`` is the folder that it goes into.

    Of a folder, the files that match any of `include` (all, if that is empty) and none of `exclude`. The plan holds no
    byte and no hash of them: two plans with other content below `from_` are the same work.
    """

    path: str
    from_: str = bounded(alias="from", max_chars=4096)
    include: Tuple[str, ...] = bounded((), max_entries=MAX_PATTERNS, max_chars=4096)
    exclude: Tuple[str, ...] = bounded((), max_entries=MAX_PATTERNS, max_chars=4096)
    level: str = level_field()
    when: Optional[When] = None

    @property
    def key(self) -> str:
        """Which item it is, among all that are sent: its path; of a folder, with what goes there."""
        return download_key(self.path, self.from_)

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.path} from {self.from_}" if self.path.endswith("/") else self.path


def _wanted_folder(value: str) -> str:
    is_fit = value and not value.startswith(("/", "~")) and "\0" not in value and "\\" not in value
    return (
        ""
        if is_fit and ".." not in value.split("/")
        else "a folder without `..`, relative to that of the outputs"
    )


@dataclass(frozen=True)
class Output:
    """Files that come home: those at `path` in the workspace, into the folder `to` of whoever watches the run."""

    path: str = bounded(max_chars=4096)
    to: str = bounded("outputs", max_chars=1024, check=_wanted_folder)
    include: Tuple[str, ...] = bounded((), max_entries=MAX_PATTERNS, max_chars=4096)
    exclude: Tuple[str, ...] = bounded((), max_entries=MAX_PATTERNS, max_chars=4096)


def is_chosen(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a file is one of those that are meant.

    Args:
        path: Relative to the folder that is sent, with ``/``.
        include: Patterns of the shell, each for the whole path or for a name in it; empty: all files.
        exclude: Likewise; one that ends in ``/`` names folders, with all that is in them.
    """
    return (not include or _fits(path, include)) and not _fits(path, exclude)


def _fits(path: str, patterns: Sequence[str]) -> bool:
    parts = path.split("/")
    folders = ["/".join(parts[:count]) for count in range(1, len(parts))]
    for pattern in patterns:
        if pattern.endswith("/"):
            names, pattern = [*folders, *parts[:-1]], pattern[:-1]
        else:
            names = [path, parts[-1]]
        if any(fnmatchcase(name, pattern) for name in names):
            return True
    return False
