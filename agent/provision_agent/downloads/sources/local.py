"""A `file:` source: a copy with the same map, journal, hash and checks as a download."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Optional
from urllib.parse import unquote, urlsplit

from ...contract.failures import Failure
from .answer import HEAD_BYTES, Answer
from .http import WebServer

if TYPE_CHECKING:
    from ..engine.transfer import Transfer
    from ..progress import Progress
    from ..time_budget import Allowance

COPY_BYTES = 1 << 20


class Local(WebServer):
    """``file:///PATH``: a file on a disk of this instance."""

    def address(self, url: str) -> Optional[str]:
        return url if urlsplit(url).path else None

    def at_hand(self, url: str, address: str) -> Optional[Answer]:
        path = unquote(urlsplit(address).path)
        try:
            with open(path, "rb") as file:
                size, head = os.fstat(file.fileno()).st_size, file.read(HEAD_BYTES)
        except OSError as error:
            raise Failure("not_found", f"cannot read `{path}`: {error.strerror}", case="file_url") from None
        return Answer(url=url, location=address, size_bytes=size, name=os.path.basename(path), head=head)


KIND = Local()


def copy(transfer: Transfer, *, guard: threading.Condition, progress: Progress, allowance: Allowance) -> None:
    """Copy what of *transfer* is missing.

    Args:
        guard: Held while the transfer's extents change; the hash follows them.

    Raises:
        Failure: `not_found`, `size`, or what the disk says; and as `Allowance.check`.
    """
    path = unquote(urlsplit(transfer.answer.location).path)
    view = memoryview(bytearray(COPY_BYTES))
    try:
        with open(path, "rb", buffering=0) as file:
            while not transfer.extents.is_complete:
                with guard:
                    claim = transfer.extents.claim(len(view), time.monotonic())
                assert claim is not None
                try:
                    file.seek(claim.start)
                    while claim.left > 0:
                        count = file.readinto(view[: claim.left]) or 0
                        if count == 0:
                            raise Failure("size", f"`{path}` became shorter while it was copied")
                        transfer.part.write(view[:count], claim.position)
                        with guard:
                            transfer.extents.land(claim, count, time.monotonic())
                finally:
                    with guard:
                        transfer.extents.release(claim)
                progress.note(transfer.extents.landed)
                allowance.check()
    except OSError as error:
        raise Failure("not_found", f"cannot read `{path}`: {error.strerror}") from None
    progress.finish(transfer.extents.landed)
