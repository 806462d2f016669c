"""Small text files of a plan."""

from __future__ import annotations

import os
from typing import Optional

from ..contract.failures import disk_failure
from ..contract.plan import File
from ..host.beneath import Folder
from ..run.context import Context
from ..run.state import write_in
from ..run.writing import folder_for
from .python.venv import Venv


def do(file: File, context: Context, venv: Optional[Venv]) -> None:
    """Write *file* as one step, unless it holds that already; its folder is made when it is not there.

    Raises:
        Failure: `disk_full`, `read_only`, or `unsafe_path` where a link of a repository leads out of the workspace.
    """
    path = os.path.join(context.workspace, file.path)
    content, mode = file.content.encode(), int(file.mode, 8)
    try:
        with folder_for(context, path) as folder:
            name = os.path.basename(path)
            changed = not _holds(folder, name, content)
            if changed:
                write_in(folder, name, content, mode=mode)
            os.chmod(name, mode, dir_fd=folder.descriptor)
            made = folder.lstat(name)
    except OSError as error:
        raise disk_failure(error, path) from None
    record = {"path": os.path.realpath(path), "size": made.st_size, "mtime_ns": made.st_mtime_ns}
    context.state.put("file", file.path, record)
    context.report("file_written", item=file.path, level=file.level, changed=changed)


def _holds(folder: Folder, name: str, content: bytes) -> bool:
    """Is it a file with this content already?"""
    try:
        with os.fdopen(folder.open(name, os.O_RDONLY), "rb") as file:
            return file.read(len(content) + 1) == content
    except OSError:
        return False
