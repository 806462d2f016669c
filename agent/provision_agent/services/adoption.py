"""Is a service of the plan running already, started by somebody else, such as the init system of a rental image?

A process is the service when the same interpreter runs the same file. Where it listens is then its own affair: images
put their own portal on the usual port and the program behind it on another.
"""

from __future__ import annotations

import os
from typing import Iterable, Optional, Sequence

from ..host import sockets
from ..host.detach import argv_of, processes

_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
"""Options of python that take the next word."""


def find(
    argv: Sequence[str], directory: str, port: Optional[int], *, known: Iterable[int] = ()
) -> Optional[int]:
    """The process that runs *argv*'s own file in *directory* already; None when there is none, or it cannot be known.

    Those that belong to *known* processes are others' services. Of several the one that listens on *port* is meant,
    else one that listens at all, else the oldest.
    """
    wanted = _script(argv, directory)
    if wanted is None:
        return None
    others = (pid for pid in processes() if pid != os.getpid())
    found = [pid for pid in others if _script(argv_of(pid), _directory(pid)) == wanted]
    found = [pid for pid in found if not any(sockets.belongs_to(pid, service) for service in known)]
    ports = {pid: sockets.ports_of(pid) for pid in found}
    return min(found, key=lambda pid: (port not in ports[pid], not ports[pid], pid), default=None)


def _script(argv: Sequence[str], directory: str) -> Optional[str]:
    """The file that a python runs, links resolved; None for anything else: other programs share their names too often."""
    if not argv or not directory or not os.path.basename(argv[0]).startswith("python"):
        return None
    words = iter(argv[1:])
    for word in words:
        if word in ("-c", "-m", "-"):
            return None
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            path = os.path.realpath(os.path.join(directory, word))
            return path if os.path.isfile(path) else None
    return None


def _directory(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""
