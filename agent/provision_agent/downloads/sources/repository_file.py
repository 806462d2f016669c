"""One file of a place that lists its files, as an item of its own."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Dict, Optional

from ...contract.failures import Failure
from ...contract.plan import Download
from ..http import fields


@dataclass(frozen=True)
class RepositoryFile(Download):
    """A file of a whole repository: two of them may want one final path, so its source is part of its identity."""

    of: str = ""
    """The key of the plan's item."""
    git_sha1: Optional[str] = None
    """Its name as git knows content, where that is what it is held against."""

    @property
    def key(self) -> str:
        return f"{self.path}#{self.of.rpartition('#')[2]}"

    @property
    def file_name(self) -> str:
        """What it is called where it comes from: its ending tells the format."""
        return self.path.rpartition("/")[2]


def file_name_of(item: Download, path: str) -> str:
    """The name that tells the format of the file of *item* at *path*."""
    return item.file_name if isinstance(item, RepositoryFile) else path.rpartition("/")[2]


def git_sha1_of(item: Download) -> Optional[str]:
    """What git calls the content of *item*, where that is what it is held against."""
    return item.git_sha1 if isinstance(item, RepositoryFile) else None


def inherited(item: Download) -> Dict[str, object]:
    """What each file takes over from *item*, which means all of them."""
    found = {each.name: getattr(item, each.name) for each in fields_of(Download)}
    return {**found, "include": (), "exclude": (), "layout": "files"}


def check_path(listed: str, inside: str) -> None:
    """Raise unless *inside* can be a path below a folder.

    Args:
        listed: The whole of what the listing says, for the message.

    Raises:
        Failure: `unsafe_path`.
    """
    whys = (fields.unusable(part, may_hide=True) for part in inside.split("/"))
    why = next((each for each in whys if each is not None), None)
    if why is not None:
        message = f"the repository has a file that it calls {fields.brief(listed)}: a part of that {why}"
        raise Failure("unsafe_path", message, case="odd_name")
