"""Secrets that a run asks for when a host refuses to serve without them, and how they get to it: through a `Mailbox`."""

from __future__ import annotations

import json
import time
from typing import Callable, Dict, Iterable, List

from ..contract.messages import SecretsAnswer, SecretsRequest, read_message
from ..contract.parsing import ParseError, to_json
from . import answering
from .mailbox import Mailbox, hand_over
from .workspace import Workspace

WITHIN_S = 20.0
"""How long a run waits for values that somebody offered: he may have left."""
MAX_BYTES = 1 << 20


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
        mailbox = Mailbox(path, max_bytes=MAX_BYTES)
    except OSError:
        ask()
        return {}
    with mailbox:
        ask()
        try:
            line = _line(mailbox, time.monotonic() + wait_s, is_over)
            given = read_message(SecretsRequest, line).secrets if line else {}
        except (OSError, ParseError):
            return {}
        return {name: value for name, value in given.items() if name in wanted}


def _line(mailbox: Mailbox, ends_at: float, is_over: Callable[[], bool]) -> bytes:
    line = b""
    while not line and time.monotonic() < ends_at and not is_over():
        line = mailbox.line()
    return line


def _give(request: SecretsRequest) -> SecretsAnswer:
    path = pipe_of(Workspace(request.workspace), request.run)
    return SecretsAnswer(taken=hand_over(path, json.dumps(to_json(request)).encode() + b"\n"))
