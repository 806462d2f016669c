"""What a run needs per file system, with the margin that its preflight asks for, and what is free there."""

from __future__ import annotations

import os
import shutil
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ..contract.environment_told import EnvironmentTold
from ..contract.findings import Disk, Facts
from ..contract.parsing import parse
from ..contract.plan import Plan
from ..downloads import preflight
from ..host.folders import nearest_folder
from ..run.context import Context
from ..run.interpreters import path_meant
from ..steps.python import disk_estimate, uv_cache


def disks_of(
    plan: Plan,
    context: Context,
    missing: Sequence[int],
    environment: Optional[EnvironmentTold],
    facts: Mapping[str, object],
) -> List[Disk]:
    """The file systems that something lands on.

    Args:
        missing: Bytes that are still to come, in the order of the plan's downloads.
        environment: What the packages are, if anybody asked.
        facts: The instance's.
    """
    needed: Dict[str, int] = {}
    folders: Dict[int, str] = {}
    files = [
        (os.path.join(context.workspace, os.path.dirname(item.path)), bytes_)
        for item, bytes_ in zip(plan.downloads, missing)
        if "downloads" in plan.steps
    ]
    for path, bytes_ in [*files, *_packages(plan, context, environment, facts)]:
        folder = nearest_folder(path)
        folder = folders.setdefault(os.stat(folder).st_dev, folder)
        needed[folder] = needed.get(folder, 0) + bytes_
    return [
        Disk(folder, shutil.disk_usage(folder).free, needed_bytes=_with_margin(bytes_))
        for folder, bytes_ in needed.items()
    ]


def _packages(
    plan: Plan, context: Context, environment: Optional[EnvironmentTold], facts: Mapping[str, object]
) -> Iterator[Tuple[str, int]]:
    """Where wheels land and where they are unpacked; what is not known counts as the least that is surely needed."""
    python = plan.python
    if python is None or "python" not in plan.steps:
        return
    if environment is None or environment.fetch_bytes is None or environment.unpacked_bytes is None:
        yield context.workspace, disk_estimate.bytes_needed(python, context, facts)
        return
    yield context.workspace, environment.fetch_bytes
    path = path_meant(python, context, parse(Facts, facts, "facts"))
    yield path, environment.unpacked_bytes + (0 if os.path.exists(path) else disk_estimate.VENV_BYTES)
    copy = uv_cache.second_copy(context.workspace, path, os.environ)
    if copy is not None:
        yield copy, environment.unpacked_bytes


def _with_margin(bytes_: int) -> int:
    return bytes_ and bytes_ + int(bytes_ * preflight.MARGIN_SHARE) + preflight.MARGIN_BYTES
