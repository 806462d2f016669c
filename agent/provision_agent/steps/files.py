"""Small text files of a plan."""

from __future__ import annotations

import os
from typing import Optional

from ..contract.failures import disk_failure
from ..contract.plan import File
from ..run.context import Context
from ..run.state import write_atomically
from .python.venv import Venv


def do(file: File, context: Context, venv: Optional[Venv]) -> None:
    """Write *file* as one step, unless it holds that already; its folder is made when it is not there.

    Raises:
        Failure: `disk_full` or `read_only`.
    """
    path = os.path.join(context.workspace, file.path)
    content, mode = file.content.encode(), int(file.mode, 8)
    try:
        changed = not _holds(path, content)
        if changed:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_atomically(path, content, mode=mode)
        os.chmod(path, mode)
        made = os.lstat(path)
    except OSError as error:
        raise disk_failure(error, path) from None
    record = {"path": os.path.realpath(path), "size": made.st_size, "mtime_ns": made.st_mtime_ns}
    context.state.put("file", file.path, record)
    context.report("file_written", item=file.path, level=file.level, changed=changed)


def _holds(path: str, content: bytes) -> bool:
    """Is it a file with this content already?"""
    try:
        with open(path, "rb") as file:
            return not os.path.islink(path) and file.read(len(content) + 1) == content
    except OSError:
        return False
