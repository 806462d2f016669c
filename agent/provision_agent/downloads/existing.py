"""Is a file already there and right? The record of an earlier run makes that cheap; the disk has the last word."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import asdict, dataclass, replace
from typing import Callable, FrozenSet, Mapping, NamedTuple, Optional

from ..contract.failures import Failure
from ..contract.parsing import ParseError, bounded, parse
from ..contract.plan import Download
from ..run.context import Context
from . import verify


@dataclass(frozen=True)
class FileRecord:
    """What is recorded of a file that was verified; false where nothing is."""

    path: str = bounded("", max_chars=4096)
    """Where it is, absolute."""
    size: int = bounded(-1)
    mtime_ns: int = bounded(-1, low=-(2**63), high=2**63)
    sha256: Optional[str] = bounded(None, max_chars=64)
    url: str = bounded("", max_chars=64)
    """A digest of the URL that it came from, which itself may hold a token."""
    unpacked: bool = False

    def __bool__(self) -> bool:
        return bool(self.path)

    def fits(self, found: os.stat_result) -> bool:
        """Has the file not been touched since it was verified?"""
        return (self.size, self.mtime_ns) == (found.st_size, found.st_mtime_ns)

    def is_from(self, url: str) -> bool:
        """Did the file come from *url*?"""
        return self.url == _digest(url)


class Wanted(NamedTuple):
    """What a file must be, as far as it is known, and where it would come from."""

    size_bytes: Optional[int]
    sha256: Optional[str]
    """None: the hash of the first download counts."""
    url: str
    """A record of another source says nothing about this one."""
    git_sha1: Optional[str] = None
    """What git calls the content, where nobody tells a sha256."""

    def or_as_told(self, size_bytes: Optional[int], sha256: Optional[str]) -> "Wanted":
        """This, and where it leaves something open, what a source tells."""
        size = size_bytes if self.size_bytes is None else self.size_bytes
        return Wanted(size, self.sha256 or sha256, self.url, self.git_sha1)


def record_of(context: Context, item: Download) -> FileRecord:
    """What is recorded of *item*.

    Earlier releases knew a file by its path alone, and a lock knows it by its final name; a profile may name a file
    that it had in a folder: such a record counts when its source is one of the item's, and its place fits.
    """
    record = context.state.get("download", item.key)
    if record is not None:
        return _parsed(record)
    sources, place = sources_of(item), os.path.join(context.workspace, item.path)
    if item.key == item.path:
        is_ours = lambda other: other.get("path") == place and other.get("url") in sources  # noqa: E731
        return _parsed(context.state.find("download", is_ours))
    instead = os.path.join(context.workspace, item.substitute.path) if item.substitute else None

    def fits(other: Mapping[str, object]) -> bool:
        found = _parsed(other)
        if found.url in sources:
            return found.path == place or (place.endswith("/") and os.path.dirname(found.path) + "/" == place)
        return found.path == instead and is_substitute(found, item)

    return _parsed(context.state.find("download", fits))


def _parsed(record: Optional[Mapping[str, object]]) -> FileRecord:
    """A record that cannot be read is none: the file is looked at anew."""
    try:
        return parse(FileRecord, record or {}, "the record")
    except ParseError:
        return FileRecord()


def sources_of(item: Download) -> FrozenSet[str]:
    """How records name the URLs that have the wanted file: not that of its substitute."""
    return frozenset(_digest(url) for url in (item.url, *item.mirrors))


def is_substitute(record: FileRecord, item: Download) -> bool:
    """Is the recorded file the substitute of *item*, and not what was wanted?"""
    if item.substitute is None or record.url in sources_of(item):
        return False
    return record.is_from(item.substitute.url)


def verified(
    context: Context,
    item: Download,
    final: str,
    wanted: Wanted,
    *,
    stop: Callable[[], bool],
) -> Optional[FileRecord]:
    """The record of the file at *final* if it is the right one; a new one where need be.

    Returns:
        None when it is not there, is another content, or begins or ends as its kind must not.
    """
    record = record_of(context, item)
    try:
        found = os.stat(final)
    except OSError:
        return None
    if not os.path.isfile(final) or wanted.size_bytes not in (None, found.st_size):
        return None
    if not found.st_mode & stat.S_IRUSR:
        os.chmod(final, found.st_mode | stat.S_IRUSR | stat.S_IWUSR)
    is_of_item = record.is_from(wanted.url) or _are_sources(item, record.url, wanted.url)
    is_same = record.path == final and record.fits(found)
    if is_same and wanted.sha256 in (None, record.sha256) and (is_of_item or wanted.sha256):
        return _kept(context, item, record, wanted.url)
    sha256 = wanted.sha256 or (record.sha256 if is_of_item else None)
    if sha256 is None and wanted.git_sha1 is not None:
        sha256 = verify.sha256_of(final, stop=stop)
        if sha256 is None or verify.git_sha1_of(final, found.st_size) != wanted.git_sha1:
            return None
        return remember(context, item, final, sha256=sha256, url=wanted.url)
    is_unknown = wanted.size_bytes is None and not context.is_offline
    if sha256 is None and (is_unknown or (is_same and is_substitute(record, item))):
        return None  # nothing is known that it could be held against, or it is known to be something else
    if not _is_intact(final, found.st_size):
        return None
    if sha256 is not None and verify.sha256_of(final, stop=stop) != sha256:
        return None
    if sha256 is None and is_same:
        sha256 = record.sha256  # of whichever source: it is what these bytes have
    is_unpacked = record.unpacked and sha256 == record.sha256
    return remember(context, item, final, sha256=sha256, url=wanted.url, unpacked=is_unpacked)


def is_ours(context: Context, path: str) -> bool:
    """Did a run of ours make the file at *path*, as far as the records say: a download, a text, a member of an archive?"""
    records = (*context.state.all("download"), *context.state.all("file"))
    place = os.path.realpath(path)
    return any(os.path.realpath(str(record.get("path"))) == place for record in records)


def is_as_recorded(record: FileRecord, path: str) -> bool:
    """Is the file at *path* still the one that was verified, by its size and its time?"""
    try:
        return record.path == path and record.fits(os.stat(path))
    except OSError:
        return False


def _are_sources(item: Download, digest: str, url: str) -> bool:
    """Do both, a record's source and *url*, have the wanted file? Mirrors have the same content."""
    return {digest, _digest(url)} <= sources_of(item)


def _kept(context: Context, item: Download, record: FileRecord, url: str) -> FileRecord:
    """*record*, on the disk as that of *item*, and of a source that the item has now."""
    if record.url not in sources_of(item) and not record.is_from(url):
        record = replace(record, url=_digest(url))
    if context.state.get("download", item.key) != asdict(record):
        keep(context, item, record)
    return record


def keep(context: Context, item: Download, record: FileRecord) -> None:
    """Have *record* be what is recorded of *item*."""
    context.state.put("download", item.key, asdict(record))


def remember(
    context: Context, item: Download, final: str, *, sha256: Optional[str], url: str, unpacked: bool = False
) -> FileRecord:
    """Record that the file at *final* has been verified just now."""
    found = os.stat(final)
    record = FileRecord(final, found.st_size, found.st_mtime_ns, sha256, _digest(url), unpacked)
    keep(context, item, record)
    return record


def recorded_path(context: Context, item: Download) -> Optional[str]:
    """Where an earlier run brought *item*, relative to the workspace; None when it did not, or the file was touched."""
    record = record_of(context, item)
    try:
        is_there = record.fits(os.stat(record.path))
    except OSError:
        return None
    return os.path.relpath(record.path, context.workspace) if is_there else None


def recorded_place(context: Context, item: Download) -> Optional[str]:
    """Where an earlier run brought what *item* wants, relative to the workspace, whatever is there now; None when it did not."""
    record = record_of(context, item)
    folder = os.path.join(context.workspace, item.path)
    if not record or is_substitute(record, item) or os.path.dirname(record.path) + "/" != folder:
        return None
    return os.path.relpath(record.path, context.workspace)


def _is_intact(final: str, size_bytes: int) -> bool:
    try:
        descriptor = os.open(final, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        verify.check_format(descriptor, os.path.basename(final), size_bytes)
    except (Failure, OSError):
        return False
    finally:
        os.close(descriptor)
    return True


def short(key: str) -> str:
    """A few characters that stand for *key* in a file's name."""
    return _digest(key)[:8]


def _digest(url: str) -> str:
    """Names the source without giving it away: a URL may hold a token."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def final_path(context: Context, item: Download) -> str:
    """The path of *item*'s file below the workspace; of one that took its server's name, as it was recorded."""
    record = record_of(context, item) if item.path.endswith("/") else None
    return os.path.relpath(record.path, context.workspace) if record else item.path
