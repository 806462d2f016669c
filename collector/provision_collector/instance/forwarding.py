"""Bring ports of an instance to this machine, through SSH, and bring them back when the connection breaks."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UsageError
from . import Connection, Instance, first_contact, regain


@dataclass(frozen=True)
class Port:
    """A port of the instance under the name of its service.

    *local* 0 takes a free one here, None the number *like* (None: the same as there) or a free one.
    """

    name: str
    remote: int
    local: int | None = None
    like: int | None = None


class Forwarding:
    """Listens on 127.0.0.1 for each added port. *on_open* is told each port and its number here, *on_lost* each loss."""

    def __init__(
        self, instance: Instance, *, on_open: Callable[[Port, int], None], on_lost: Callable[[], None]
    ) -> None:
        self._instance = instance
        self._on_open = on_open
        self._on_lost = on_lost
        self._ports: list[Port] = []
        self._here: dict[int, int] = {}
        self._added = asyncio.Event()

    def add(self, port: Port) -> None:
        """Forward *port*, too; at once if `keep` is going."""
        if port.remote not in {known.remote for known in self._ports}:
            self._ports.append(port)
            self._added.set()

    async def keep(self) -> None:
        """Forward until cancelled.

        Raises:
            UsageError: a local port is taken. ProvisionError: as `first_contact` and `regain` say.
        """
        link = await first_contact(self._instance, on_wait=lambda *_: None)
        try:
            while True:
                await self._keep_over(link)
                self._on_lost()
                link = await regain(self._instance, lost_for_s=0.0, first_wait_s=0.0, on_wait=lambda *_: None)
        finally:
            link.abort()

    async def _keep_over(self, link: Connection) -> None:
        """Forward over *link* until it is lost."""
        listening: set[int] = set()
        lost = asyncio.ensure_future(link.lost.wait())
        try:
            while not lost.done():
                self._added.clear()
                for port in [port for port in self._ports if port.remote not in listening]:
                    await self._open(link, port)
                    listening.add(port.remote)
                added = asyncio.ensure_future(self._added.wait())
                await asyncio.wait((lost, added), return_when=asyncio.FIRST_COMPLETED)
                added.cancel()
        finally:
            lost.cancel()

    async def _open(self, link: Connection, port: Port) -> None:
        before = self._here.get(port.remote)
        wanted = port.local if before is None else before
        like = port.remote if port.like is None else port.like
        here = await _listen(link, port.remote, wanted, like=like, was_open=before is not None)
        self._here[port.remote] = here
        if before is None:
            self._on_open(port, here)


async def _listen(link: Connection, remote: int, wanted: int | None, *, like: int, was_open: bool) -> int:
    """Listen here for *remote*; the port here."""
    for here in [wanted] if wanted is not None else [like, 0]:
        try:
            listener = await link.ssh.forward_local_port("127.0.0.1", here, "127.0.0.1", remote)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
        else:
            return int(listener.get_port())
    taken = "was taken meanwhile" if was_open else "is taken"
    raise UsageError(f"port {wanted} of this machine {taken}", hint="choose another with `--local`")
