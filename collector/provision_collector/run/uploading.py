"""Send the files of this machine that a run waits for, beside the watching of it, as often as it takes.

The instance names nothing: which files are sent is what this side's own profile, or its record of the run, says.
"""

from __future__ import annotations

from collections.abc import Sequence

from provision_agent.contract.file_messages import ReceiveRequest

from ..files import Listing, UploadSource, list_all
from ..files.sender import Sender
from ..files.session import FileSession
from ..instance import Connection, Emit, Flag, Link
from ..storage import in_thread
from .dispatch import Dispatch
from .sessions import in_sessions

SHOWN = 3


class Uploading:
    """The uploads of one run from here. `work` returns when each of them is settled."""

    def __init__(self, dispatch: Dispatch, link: Link, emit: Emit) -> None:
        self._dispatch = dispatch
        self._link = link
        self._emit = emit
        self._has_told_of_skipped = False
        self._moved_bytes = 0
        self.settled = Flag()
        """All of it is there, or cannot be sent, or is not this process's to send."""
        self._is_done = False

    @property
    def sources(self) -> Sequence[UploadSource]:
        """What this side has of the run's uploads."""
        return () if self._dispatch.known is None else self._dispatch.known.uploads

    async def work(self) -> None:
        """Send until all is settled, over whichever connection there is. What one session has sent stays sent."""
        self._is_done = self._is_done or not self.sources
        self.settled.clear()
        if not self._is_done:
            self._is_done = await in_sessions(
                self._link, self._emit, self._session, what="uploads", moved_bytes=lambda: self._moved_bytes
            )
        self.settled.set()

    async def _session(self, connection: Connection) -> None:
        listings = await in_thread(list_all, self.sources)
        self._tell_of_skipped(listings)
        request = ReceiveRequest("", self._dispatch.workspace, self._dispatch.run)
        command = self._dispatch.agent_command("receive")
        session = await FileSession.open(connection, command, request)
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
