"""The names that rotation gives to a log's older files. Pure; runs on Python 3.6 as the other parts of the follower."""

from __future__ import annotations

import re


def rotated_name(log_name: str) -> "re.Pattern[str]":
    """Matches the names of a log's rotated files: ``app.log.1 app.log-20260101 app.log.old app.1.log``, of that log only."""
    stem, dot, extension = log_name.rpartition(".")
    if not stem:
        stem, dot, extension = log_name, "", ""
    mark = r"(?:[._-](?:\d[\dTZ:.+_-]*|old|bak|prev|previous|backup|orig))+"
    plain, split = re.escape(log_name), (re.escape(stem), re.escape(dot + extension))
    return re.compile(rf"(?:{plain}(?:{mark}|~)|{split[0]}{mark}{split[1]})\Z")


def rotation_age(path: str) -> int:
    """Orders rotated files of one modification time, the oldest first: ``.2`` before ``.1``, dates and others as they come."""
    digits = re.search(r"(\d+)[^\d/]*\Z", path)
    return -int(digits.group(1)) if digits is not None and len(digits.group(1)) < 5 else 0
