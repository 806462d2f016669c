"""Is a file already there and right? The record of an earlier run makes that cheap; the disk has the last word."""

from __future__ import annotations

import hashlib
import os
from typing import Any, Callable, Dict, FrozenSet, Mapping, Optional

from ..contract.failures import Failure
from ..contract.plan import Download
from ..run.context import Context
from . import verify


def record_of(context: Context, item: Download) -> Dict[str, Any]:
    """What is recorded of *item*; empty when nothing is.

    Earlier releases knew a file by its path alone, and a lock knows it by its final name: such a record counts
    when its source is one of the item's, and its place fits.
    """
    record = context.state.get("download", item.key)
    if record is not None or item.key == item.path:
        return record or {}
    sources, place = sources_of(item), os.path.join(context.workspace, item.path)
    instead = os.path.join(context.workspace, item.substitute.path) if item.substitute else None

    def fits(other: Dict[str, Any]) -> bool:
        path = str(other.get("path", ""))
        if other.get("url") in sources:
            return path == place or (place.endswith("/") and os.path.dirname(path) + "/" == place)
        return path == instead and is_substitute(other, item)

    return context.state.find("download", fits) or {}


def sources_of(item: Download) -> FrozenSet[str]:
    """How records name the URLs that have the wanted file: not that of its substitute."""
    return frozenset(_digest(url) for url in (item.url, *item.mirrors))


def is_substitute(record: Mapping[str, Any], item: Download) -> bool:
    """Is the recorded file the substitute of *item*, and not what was wanted?"""
    if item.substitute is None or record.get("url") in sources_of(item):
        return False
    return record.get("url") == _digest(item.substitute.url)


def verified(
    context: Context,
    item: Download,
    final: str,
    *,
    size_bytes: Optional[int],
    sha256: Optional[str],
    url: str,
    stop: Callable[[], bool],
) -> Optional[Dict[str, Any]]:
    """The record of the file at *final* if it is the right one; a new one where need be.

    Args:
        size_bytes: The size that it must have, as far as known.
        sha256: The hash that it must have, as far as known; else the one of the first download counts.
        url: Where it would come from; a record of another source says nothing about this one.

    Returns:
        None when it is not there, is another content, or begins or ends as its kind must not.
    """
    record = record_of(context, item)
    try:
        found = os.stat(final)
    except OSError:
        return None
    if not os.path.isfile(final) or size_bytes not in (None, found.st_size):
        return None
    known = record.get("sha256") if record.get("url") == _digest(url) else None
    wanted = sha256 or known
    is_untouched = is_as_recorded(record, found)
    if is_untouched and record.get("path") == final and wanted == record.get("sha256"):
        if context.state.get("download", item.key) is None:
            context.state.put("download", item.key, record)
        return record
    if wanted is None and size_bytes is None:
        return None  # nothing is known that it could be held against
    if not _is_intact(final, found.st_size):
        return None
    if wanted is not None and verify.sha256_of(final, stop=stop) != wanted:
        return None
    return remember(
        context, item, final, sha256=wanted, url=url, unpacked=bool(record.get("unpacked")) and is_untouched
    )


def is_as_recorded(record: Mapping[str, Any], found: os.stat_result) -> bool:
    """Has the file not been touched since it was verified?"""
    return (record.get("size"), record.get("mtime_ns")) == (found.st_size, found.st_mtime_ns)


def remember(
    context: Context, item: Download, final: str, *, sha256: Optional[str], url: str, unpacked: bool = False
) -> Dict[str, Any]:
    """Record that the file at *final* has been verified just now."""
    found = os.stat(final)
    record = {
        "path": final,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "sha256": sha256,
        "url": _digest(url),
        "unpacked": unpacked,
    }
    context.state.put("download", item.key, record)
    return record


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


def is_from(record: Mapping[str, Any], url: str) -> bool:
    """Did the recorded file come from *url*?"""
    return record.get("url") == _digest(url)


def short(key: str) -> str:
    """A few characters that stand for *key* in a file's name."""
    return _digest(key)[:8]


def _digest(url: str) -> str:
    """Names the source without giving it away: a URL may hold a token."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]
