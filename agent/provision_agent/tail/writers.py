"""Which processes write a file, and since when; those of other users are not seen."""

from __future__ import annotations

import os
import re
from typing import Iterator, Optional

from .log_file import Identity


def oldest_writer_ns(identities: "set[Optional[Identity]]") -> Optional[int]:
    """When the oldest process began that has one of the files open for writing; None when nobody has."""
    starts = [process_start_ns(pid) for pid in _writers(identities)]
    return min((start for start in starts if start is not None), default=None)


def _writers(identities: "set[Optional[Identity]]") -> Iterator[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue  # ended meanwhile, or another user's
        if any(_writes(f"/proc/{pid}", number, identities) for number in descriptors):
            yield pid


def _writes(process: str, number: str, identities: "set[Optional[Identity]]") -> bool:
    try:
        facts = os.stat(f"{process}/fd/{number}")
        if (facts.st_dev, facts.st_ino) not in identities:
            return False
        with open(f"{process}/fdinfo/{number}") as about:
            flags = re.search(r"flags:\s*(\d+)", about.read())
    except OSError:
        return False  # closed meanwhile
    return flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY


def process_start_ns(pid: str) -> Optional[int]:
    """When process *pid* began, by the wall clock; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as about:
            ticks = int(about.read().rpartition(")")[2].split()[19])
        with open("/proc/stat") as about:
            booted = re.search(r"^btime (\d+)", about.read(), re.M)
    except (OSError, ValueError, IndexError):
        return None
    seconds = ticks / os.sysconf("SC_CLK_TCK")
    return None if booted is None else int((int(booted[1]) + seconds) * 1e9)
