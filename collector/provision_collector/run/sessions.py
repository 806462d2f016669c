"""Sessions of files beside the watching of a run, one after the other, over whichever connection there is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from ..errors import HostUnreachableError, ProvisionError
from ..instance import Connection, Emit, Link

AGAIN_AFTER_S = 0.5
MOST_FAULTS = 5
"""Sessions in a row that ended by a fault and moved nothing."""

log = structlog.get_logger()


async def in_sessions(
    link: Link,
    emit: Emit,
    session: Callable[[Connection], Awaitable[None]],
    *,
    what: str,
    moved_bytes: Callable[[], int],
) -> bool:
    """Hold one session after the other until one comes to its own end. Who follows the run opens a lost connection again.

    Args:
        link: Where connections are from.
        emit: Is told when it is given up.
        session: Holds one over this connection; a ProvisionError cuts it.
        what: Is transferred, as people read it: ``uploads``.
        moved_bytes: By all sessions so far. A session that moved some is no fault.

    Returns:
        Whether one came to its own end; else it is given up.
    """
    faults = 0
    while faults < MOST_FAULTS:
        connection = link.connection
        if connection is not None and not connection.lost.is_set():
            before = moved_bytes()
            try:
                await session(connection)
                return True
            except ProvisionError as error:
                log.info("transfer cut", of=what, why=str(error))
                is_fault = not isinstance(error, HostUnreachableError) and moved_bytes() == before
                faults = faults + 1 if is_fault else 0
                if faults >= MOST_FAULTS:
                    emit("warning", message=f"the {what} are given up: {error}")
        await asyncio.sleep(AGAIN_AFTER_S)
    return False
