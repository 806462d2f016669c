"""A download's place on the disk: whose file is there, the part that becomes it, and what an archive brings beside it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Callable, Optional

from ..contract.failures import Failure
from ..contract.plan import Download
from ..host.file_lock import lockless_warning
from ..run.context import Context
from ..run.writing import folder_for
from . import existing
from .engine.part_file import Busy, PartFile
from .members import Members, summary
from .sources.hub_cache import CachedFile
from .time_budget import Stopped

LOCK_AGAIN_S = 0.5


def foreseen_path(context: Context, item: Download, told_name: Optional[str]) -> Optional[str]:
    """Where the file of *item* will be, as far as that is known before it is fetched.

    Args:
        told_name: What a source calls it.
    """
    if not item.path.endswith("/"):
        return item.path
    recorded = existing.recorded_path(context, item)
    return recorded if recorded is not None or told_name is None else item.path + told_name


def warn_of_substitute(context: Context, item: Download, path: str, instead_of: Failure) -> None:
    """Say that the file at *path* is another one than was wanted: never taken in silence."""
    why = f"{instead_of.class_}: {instead_of.message}"
    message = f"{item.label}: its substitute `{path}` stands in for it, since nobody has it ({why})"
    context.report("warning", message=message)


def spare_others(context: Context, item: Download, path: str) -> None:
    """A name that a server gave replaces nothing that somebody else put there; one that is a hash does what is damaged.

    Args:
        path: Relative to the workspace.

    Raises:
        Failure: `conflict`.
    """
    if item.key == item.path or isinstance(item, CachedFile):
        return
    final = os.path.join(context.workspace, path)
    if os.path.lexists(final) and not existing.is_ours(context, final):
        message = f"`{path}` is there already, and no run of provision made it: the server's file of that name differs"
        raise Failure("conflict", message, case="name_taken")


def locked_part(
    context: Context, path: str, *, say_waits: Callable[[], None], sleep: Callable[[float], None]
) -> PartFile:
    """The part of the file at *path*, ours alone. Another process may have it: that one works for us.

    Args:
        path: Absolute; the part lies beside it.
        say_waits: Called once when somebody has it.
        sleep: Waits so many seconds, or raises when the time is up.
    """
    is_told = False
    while True:
        try:
            part = PartFile(path, folder_for(context, path))
        except Busy:
            if not is_told:
                say_waits()
            is_told = True
            sleep(LOCK_AGAIN_S)
            continue
        if not part.is_locked:
            context.warn_once(lockless_warning(path))
        return part


def part_of(final: str, key: str, *, is_rival: bool) -> str:
    """Where the part of an item lies: beside *final*, under a name of its own where another item's file has that name."""
    if not is_rival:
        return final
    folder, name = os.path.split(final)
    return os.path.join(folder, f"{name[:50]}.{existing.short(key)}")


def bring_members(
    context: Context,
    item: Download,
    final: str,
    record: existing.FileRecord,
    *,
    label: str,
    stop: Callable[[], bool],
) -> None:
    """See that what an archive brings is there: all of it, or what is missing or changed since.

    Raises:
        Failure: as `unpack.unpack`. Stopped: *stop* said so.
    """
    if item.unpack == "no":
        return
    members = Members(context, item, final, record.sha256)
    if record.unpacked:
        restored = members.restore(stop=stop)
    else:
        restored = []
        members.unpack(stop=stop)
    if stop():
        raise Stopped
    if restored:
        names = summary(restored, context.workspace)
        count = f"{len(restored)} of its files were missing or changed ({names})"
        context.report("warning", message=f"{label}: {count}: unpacked again")
    if not record.unpacked:
        existing.keep(context, item, replace(record, unpacked=True))
