"""Many runs in one process need many files: each has three mirrors, a connection and what its readers hold open."""

from __future__ import annotations

import resource
from contextlib import suppress

MOST = 65536


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may: the usual 1024 end at some 150 runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(ValueError, OSError):  # some systems have a lower limit than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
