"""Secrets that a run asks for when a host refuses to serve without them, and how they get to it: through a named pipe.

The values pass through the memory of the kernel only. The pipe is there while the run waits, and at no other time.
"""

from __future__ import annotations

import json
import os
import select
import stat
import time
from typing import Callable, Dict, Iterable, List

from ..contract.messages import SecretsAnswer, SecretsRequest, read_message
from ..contract.parsing import ParseError, to_json
from . import answering
from .workspace import Workspace

WITHIN_S = 20.0
"""How long a run waits for values that somebody offered: he may have left."""
LOOK_AGAIN_S = 0.25
MAX_BYTES = 1 << 20
WRITTEN_WITHIN_S = 5.0


def secrets_main(argv: List[str]) -> int:
    """``secrets``: hand the values of a `SecretsRequest` to the run that waits for them."""
    return answering.answer(SecretsRequest, _give)


def pipe_of(workspace: Workspace, run_id: str) -> str:
    """Where a run waits."""
    return workspace.run_file(run_id, "secrets.pipe")


def awaited(
    path: str, names: Iterable[str], *, ask: Callable[[], None], wait_s: float, is_over: Callable[[], bool]
) -> Dict[str, str]:
    """Wait for the values of *names*.

    Args:
        path: Where the pipe is made, and removed again.
        ask: Called once somebody could answer.
        wait_s: How long to wait at most.
        is_over: Asked while waiting; True gives up.

    Returns:
        The values that came; none where nobody gave any, or where no pipe can be made.
    """
    wanted = frozenset(names)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        os.mkfifo(path, 0o600)
        descriptor = os.open(
            path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        )  # as a writer, too: it never ends
    except OSError:
        ask()
        return {}
    try:
        ask()
        line = _line(descriptor, time.monotonic() + wait_s, is_over)
        given = read_message(SecretsRequest, line).secrets if line else {}
        return {name: value for name, value in given.items() if name in wanted}
    except (OSError, ParseError):
        return {}
    finally:
        os.close(descriptor)
        os.unlink(path)


def _line(descriptor: int, ends_at: float, is_over: Callable[[], bool]) -> bytes:
    data = b""
    while time.monotonic() < ends_at and not is_over() and len(data) < MAX_BYTES:
        ready, _, _ = select.select([descriptor], [], [], LOOK_AGAIN_S)
        data += os.read(descriptor, 65536) if ready else b""
        if data.endswith(b"\n"):
            return data
    return b""


def _give(request: SecretsRequest) -> SecretsAnswer:
    path = pipe_of(Workspace(request.workspace), request.run)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return SecretsAnswer(taken=False)  # nobody waits, or not any more
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return SecretsAnswer(taken=False)
        return SecretsAnswer(taken=_written(descriptor, json.dumps(to_json(request)).encode() + b"\n"))
    except OSError:
        return SecretsAnswer(taken=False)
    finally:
        os.close(descriptor)


def _written(descriptor: int, data: bytes) -> bool:
    ends_at = time.monotonic() + WRITTEN_WITHIN_S
    while data and time.monotonic() < ends_at:
        if select.select([], [descriptor], [], LOOK_AGAIN_S)[1]:
            data = data[os.write(descriptor, data) :]
    return not data
