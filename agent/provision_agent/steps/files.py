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
    """Write *file* as one step; its folder is made when it is not there.

    Raises:
        Failure: `disk_full` or `read_only`.
    """
    path = os.path.join(context.workspace, file.path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomically(path, file.content.encode(), mode=int(file.mode, 8))
        os.chmod(path, int(file.mode, 8))
        made = os.lstat(path)
    except OSError as error:
        raise disk_failure(error, path) from None
    record = {"path": os.path.realpath(path), "size": made.st_size, "mtime_ns": made.st_mtime_ns}
    context.state.put("file", file.path, record)
    context.report("file_written", item=file.path, level=file.level)
