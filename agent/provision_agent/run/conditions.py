"""Whether an item's `when:` holds on this instance."""

from __future__ import annotations

import os
from typing import Mapping, Optional

from ..contract.findings import Facts
from ..contract.parsing import parse
from ..contract.plan_parts import Bound, When
from . import log_lines
from .context import Context


def unmet(when: When, found: Mapping[str, object], context: Context) -> Optional[str]:
    """Why *when* does not hold on this instance; None when it does.

    Args:
        found: The instance's facts.
        context: Its secrets, and its workspace for the free disk.
    """
    gpus = parse(Facts, {"gpus": found.get("gpus") or []}, "facts").gpus
    gpu_bytes = max((gpu.memory_bytes or 0 for gpu in gpus), default=0)
    free_bytes = os.statvfs(context.workspace).f_bavail * os.statvfs(context.workspace).f_frsize
    if when.secret is not None and not context.is_set(when.secret):
        return f"the secret {when.secret} is not set"
    if when.gpu_memory is not None and not _holds(gpu_bytes, when.gpu_memory):
        return f"GPU memory is {log_lines.size_text(gpu_bytes)}, not {when.gpu_memory.op} {log_lines.size_text(when.gpu_memory.value_bytes)}"
    if when.disk_free is not None and not _holds(free_bytes, when.disk_free):
        return f"free disk is {log_lines.size_text(free_bytes)}, not {when.disk_free.op} {log_lines.size_text(when.disk_free.value_bytes)}"
    return None


def _holds(value: int, bound: Bound) -> bool:
    compared = {
        ">=": value >= bound.value_bytes,
        ">": value > bound.value_bytes,
        "<=": value <= bound.value_bytes,
        "<": value < bound.value_bytes,
        "==": value == bound.value_bytes,
    }
    return compared[bound.op]
