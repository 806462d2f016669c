"""Two items of a plan lead to one final name: is the file that is there the one that both want?"""

from __future__ import annotations

import os
from typing import Callable, Optional

from ..contract.plan import Download
from ..run.context import Context
from . import existing, verify
from .existing import FileRecord, Wanted
from .names import NameTaken


def adopt(
    context: Context, item: Download, holder: Download, path: str, wanted: Wanted, *, stop: Callable[[], bool]
) -> Optional[FileRecord]:
    """Record the file of *holder* at *path* for *item* too, if it is what that wants.

    Args:
        path: Relative to the workspace.
        wanted: What *item* must be.
        stop: Asked while the file is read; True ends it early.

    Returns:
        The record; None when only the bytes of *item* can tell.

    Raises:
        NameTaken: it surely is another file.
    """
    final = os.path.join(context.workspace, path)
    theirs, ours = existing.record_of(context, holder), existing.record_of(context, item)
    found = os.stat(final)
    is_ours = ours.path == final and ours.fits(found)
    if wanted.size_bytes not in (None, found.st_size):
        raise NameTaken(path, holder, item, f"{found.st_size} and {wanted.size_bytes} bytes")
    if is_ours and wanted.sha256 in (None, ours.sha256):
        sha256 = ours.sha256
    elif wanted.sha256 is not None:
        sha256 = wanted.sha256
        if sha256 != content_of(context, holder, final, stop=stop):
            raise NameTaken(path, holder, item, "their sha256 differ")
    elif theirs.is_from(wanted.url):
        sha256 = theirs.sha256
    else:
        return None
    is_unpacked = ours.unpacked and is_ours
    return existing.remember(context, item, final, sha256=sha256, url=wanted.url, unpacked=is_unpacked)


def content_of(context: Context, holder: Download, final: str, *, stop: Callable[[], bool]) -> Optional[str]:
    """The sha256 of the file of *holder* at *final*, without reading it again where that is not needed."""
    record = existing.record_of(context, holder)
    if record.sha256 and record.fits(os.stat(final)):
        return record.sha256
    return verify.sha256_of(final, stop=stop)
