"""What an upload is made of: the files, folders and links below its source, as they are now.

Links are kept as links, as `rsync -l` does, and one that leads out of what is sent is refused by name. Devices, sockets
and pipes are left out and said.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from provision_agent.contract.failures import Failure
from provision_agent.contract.file_messages import (
    FILE,
    FOLDER,
    LINK,
    FileTold,
    ItemTold,
    is_safe,
    link_leads_out,
)
from provision_agent.contract.plan_files import is_chosen

from .sources import UploadSource

UNREADABLE = "unreadable_here"


@dataclass
class Listing:
    """What one upload is; with a *failure*, nothing of it can be sent."""

    source: UploadSource
    files: list[FileTold] = field(default_factory=list)
    """Numbered from the number that `list_source` was given."""
    skipped: list[str] = field(default_factory=list)
    """Devices, sockets and pipes: their paths."""
    failure: Failure | None = None
    is_folder: bool = False
    """The source is a folder here, and its files lie below it."""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(told.size_bytes for told in self.files if told.kind == FILE)

    @property
    def count(self) -> int:
        """Of its files and links."""
        return sum(told.kind != FOLDER for told in self.files)

    def told(self) -> ItemTold:
        """For the receiver."""
        entries = len(self.files) if self.failure is None else 1  # what is to come is why there are none
        return ItemTold(self.source.item, entries, self.count, self.bytes)

    def path_of(self, told: FileTold) -> str:
        """Where one of its files lies here."""
        return os.path.join(self.source.source, told.path) if self.is_folder else self.source.source


def list_source(source: UploadSource, *, first: int = 0) -> Listing:
    """Look at what *source* is made of. It blocks as long as the disk does.

    Args:
        first: The number of the first file: every file of a session has its own.
    """
    listing = Listing(source, is_folder=os.path.isdir(source.source))
    try:
        for told in _found(source, listing.skipped):
            listing.files.append(FileTold(first + len(listing.files), source.item, *told))
    except Failure as failure:
        listing.failure, listing.files = failure, []
    except OSError as error:
        message = f"`{error.filename or source.source}` cannot be read here: {(error.strerror or str(error)).lower()}"
        listing.failure, listing.files = Failure("missing", message, case=UNREADABLE), []
    return listing


def list_all(sources: Sequence[UploadSource]) -> list[Listing]:
    """What each of *sources* is made of, each file with a number of its own. It blocks as long as the disk does."""
    listings: list[Listing] = []
    for source in sources:
        listings.append(list_source(source, first=sum(len(each.files) for each in listings)))
    return listings


Told = tuple[str, str, int, int, int, str]
"""Path, kind, size in bytes, time in ns, mode, target of a link."""


def _found(source: UploadSource, skipped: list[str]) -> Iterator[Told]:
    is_folder = source.path.endswith("/")
    root = os.stat(source.source)
    if stat.S_ISREG(root.st_mode):
        os.close(os.open(source.source, os.O_RDONLY | os.O_CLOEXEC))
        name = os.path.basename(source.source) if is_folder else ""
        yield name, FILE, root.st_size, root.st_mtime_ns, stat.S_IMODE(root.st_mode), ""
        return
    if not stat.S_ISDIR(root.st_mode):
        raise Failure("missing", f"`{source.source}` is neither a file nor a folder", case=UNREADABLE)
    if not is_folder:
        message = f"`{source.source}` is a folder, and `{source.path}` names a file: end `path` with `/`"
        raise Failure("conflict", message, case=UNREADABLE)
    yield from _below(source, "", skipped)


def _below(source: UploadSource, folder: str, skipped: list[str]) -> Iterator[Told]:
    with os.scandir(os.path.join(source.source, folder)) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{folder}/{entry.name}" if folder else entry.name
        about = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode):
            if not is_chosen(f"{path}/", (), source.exclude):
                continue
            if not source.include:
                yield path, FOLDER, 0, about.st_mtime_ns, stat.S_IMODE(about.st_mode), ""
            yield from _below(source, path, skipped)
        elif is_chosen(path, source.include, source.exclude):
            told = _told(source, path, entry.path, about)
            if told is None:
                skipped.append(path)
            else:
                yield told


def _told(source: UploadSource, path: str, here: str, about: os.stat_result) -> Told | None:
    if any("\udc80" <= character <= "\udcff" for character in path) or not is_safe(path):
        raise Failure("unsafe_path", f"`{path!a}` has a name that cannot be sent", case="odd_name")
    if stat.S_ISLNK(about.st_mode):
        target = os.readlink(here)
        if link_leads_out(path, target):
            message = f"the link `{path}` leads out of `{source.source}`, to `{target}`"
            raise Failure("unsafe_path", message, case="link_leads_out")
        return path, LINK, 0, about.st_mtime_ns, 0o777, target
    if not stat.S_ISREG(about.st_mode):
        return None
    if not os.access(here, os.R_OK):
        raise Failure("missing", f"`{here}` cannot be read here: permission denied", case=UNREADABLE)
    return path, FILE, about.st_size, about.st_mtime_ns, stat.S_IMODE(about.st_mode), ""
