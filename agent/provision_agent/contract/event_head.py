"""The fields that every event has. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Dict, Optional

from .event_bodies import MAX_KEY_CHARS
from .parsing import bounded
from .version import RUN_ID_PATTERN


def _wanted_time(value: str) -> str:
    is_fit = _is_second(value[:19]) and (value[-1] == "Z" or (value[-5:-3] < "24" and value[-2:] < "60"))
    return "" if is_fit else "a time as 2026-01-31T23:59:59.000Z"


@lru_cache(maxsize=256)
def _is_second(text: str) -> bool:
    """Whether it is a second of a day and an hour that exist, far enough from where years end; many events have one."""
    try:
        year = datetime(*(int(part) for part in re.split("[-T:]", text))).year  # type: ignore[arg-type]
    except ValueError:
        return False
    return 1970 <= year < 9999


_TIME_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_.-]{0,63}"


@dataclass(frozen=True)
class Head:
    """The fields that every event has; `key` and `labels` where they apply."""

    format: int = bounded(low=0)
    ts: str = bounded(max_chars=40, pattern=_TIME_PATTERN, check=_wanted_time)
    run: str = bounded(pattern=RUN_ID_PATTERN)
    seq: int = bounded(low=1)
    event: str = bounded(pattern=_NAME_PATTERN)
    key: Optional[str] = bounded(None, max_chars=MAX_KEY_CHARS)
    labels: Optional[Dict[str, str]] = bounded(None, max_entries=256, max_chars=8192)
