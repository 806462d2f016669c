"""Send the files of this machine that a run waits for, beside the watching of it, as often as it takes.

The instance names nothing: which files are sent is what this side's own profile, or its record of the run, says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from provision_agent.contract.file_messages import ReceiveRequest

from ..errors import HostUnreachableError, ProtocolFaultError, ProvisionError
from ..files import Listing, UploadSource, list_all
from ..files.sender import Sender
from ..files.session import FileSession
from ..instance import Emit, Link
from ..storage import in_thread
from .dispatch import Dispatch

AGAIN_AFTER_S = 0.5
MOST_FAULTS = 5
"""Sessions in a row that ended by a fault and moved nothing."""
SHOWN = 3

log = structlog.get_logger()


class Uploading:
    """The uploads of one run from here. `work` returns when each of them is settled."""

    def __init__(self, dispatch: Dispatch, link: Link, emit: Emit) -> None:
        self._dispatch = dispatch
        self._link = link
        self._emit = emit
        self._has_told_of_skipped = False
        self._moved_bytes = 0
        self.settled = asyncio.Event()
        """All of it is there, or cannot be sent, or is not this process's to send."""
        self._is_done = False

    @property
    def sources(self) -> Sequence[UploadSource]:
        """What this side has of the run's uploads."""
        return () if self._dispatch.known is None else self._dispatch.known.uploads

    async def work(self) -> None:
        """Send until all is settled, over whichever connection there is. What one session has sent stays sent."""
        faults = 0
        self._is_done = self._is_done or not self.sources
        self.settled.clear()
        while not self._is_done and faults < MOST_FAULTS:
            connection = self._link.connection
            if connection is None or connection.lost.is_set():
                await asyncio.sleep(AGAIN_AFTER_S)  # who follows the run opens it again
                continue
            moved = self._moved_bytes
            try:
                await self._session(self._link)
                self._is_done = True
            except (HostUnreachableError, ProtocolFaultError, ProvisionError) as error:
                log.info("upload cut", why=str(error))
                is_fault = not isinstance(error, HostUnreachableError)
                faults = faults + 1 if is_fault and moved == self._moved_bytes else 0
                if faults >= MOST_FAULTS:
                    self._emit("warning", message=f"the uploads are given up: {error}")
                await asyncio.sleep(AGAIN_AFTER_S)
        self.settled.set()

    async def _session(self, link: Link) -> None:
        assert link.connection is not None
        listings = await in_thread(list_all, self.sources)
        self._tell_of_skipped(listings)
        request = ReceiveRequest("", self._dispatch.workspace, self._dispatch.run)
        command = self._dispatch.agent_command("receive")
        session = await FileSession.open(link.connection, command, request)
        try:
            await Sender(session, listings, on_bytes=self._count).send()
        finally:
            session.close()

    def _count(self, count: int) -> None:
        self._moved_bytes += count

    def _tell_of_skipped(self, listings: Sequence[Listing]) -> None:
        skipped = [f"`{path}`" for listing in listings for path in listing.skipped]
        if skipped and not self._has_told_of_skipped:
            self._has_told_of_skipped = True
            more = f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
            shown = ", ".join(skipped[:SHOWN])
            self._emit("warning", message=f"not sent, since they are no files: {shown}{more}")
