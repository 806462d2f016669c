"""One file from one source: the map of its bytes, and how one connection fetches one stretch of them.

Nothing lands that was not checked: the range and the length are the ones that were asked for, the content is the
one that was begun, and it does not begin like a web page.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, List, Optional, Tuple

from ...contract.failures import Failure
from ...contract.plan_parts import ItemLimits
from .. import verify
from ..hosts import Rate
from ..http import request
from ..http.errors import Expired
from ..http.transport import origin_of
from ..sources import lookup, signed
from ..sources.lookup import Answer, Sources
from .hasher import Hasher
from .part_file import PartFile
from .ranges import Claim, Extents

FIRST_BYTE_S = 30.0
SILENCE_S = 15.0
"""How long one connection may bring nothing while others do."""
FIRST_FILL, SMALLEST_FILL = 256 * 1024, 64 * 1024
"""Bytes that are read in one go at first, and at least."""
BACKLOG = 256 * 1024
"""If so many bytes wait after a read, this machine is slower than the line."""
PROGRESS_BYTES = 64 * 1024
"""What an attempt must bring to count as progress."""
EXPIRED = (400, 401, 403, 404, 410)
"""What the places answer that redirects lead to, once an address of theirs has expired: storages differ in it."""


class Changed(Failure):
    """The source has other content than a moment ago: what has landed is of no use."""

    def __init__(self, message: str) -> None:
        super().__init__("truncated", message)


class Unranged(Changed):
    """The source sends whole files only: one connection, from the start."""


class Transfer:
    """What one file's driver, the pool and the connections share. Guarded by the pool's lock."""

    def __init__(
        self,
        part: PartFile,
        answer: Answer,
        extents: Extents,
        *,
        limits: ItemLimits,
        source_hosts: Tuple[str, ...],
        name: str,
        rank: "tuple[int, int]",
        is_single: bool,
    ) -> None:
        self.part = part
        self.answer = answer
        self.extents = extents
        self.limits = limits
        self.source_hosts = source_hosts
        self.name = name
        self.rank = rank
        self.is_single = is_single
        """Whole file or nothing: the source has no ranges."""
        self.hasher: Optional[Hasher] = None
        """Is offered every byte that lands."""
        self.not_before = 0.0
        self.is_blocked = False
        """It failed or was withdrawn: no new connections."""
        self.is_crowded = False
        """It failed while many connections were tried at once; fewer may do."""
        self.trouble: Optional[Failure] = None
        """What stopped it, for the driver."""
        self.bumps: List[Failure] = []
        """What went wrong with single connections while others went on, for the driver to report."""
        self.bytes_done = 0
        """What ranges brought that are over."""
        self.closes = 0
        """How many of its connections were closed for being slow."""
        self.fill_bytes = FIRST_FILL
        """How much its last connection read at a time: a good size for the next to begin with."""
        self.landed_at_last_look = 0
        self.landed_at = time.monotonic()
        """When a byte was last seen to land."""
        self.changed = threading.Event()

    @property
    def bytes_landed(self) -> int:
        """What connections of this transfer brought."""
        return self.bytes_done + sum(claim.brought for claim in list(self.extents.claims))

    @property
    def unhashed(self) -> int:
        """How far the hash is behind what it could have hashed."""
        return self.extents.frontier - self.hasher.position if self.hasher is not None else 0

    def fail(self, failure: Failure) -> None:
        """Stop here; the first reason counts."""
        if self.trouble is None:
            self.trouble = failure
        self.is_blocked = True
        self.changed.set()

    def note(self, failure: Failure, claim: Claim) -> None:
        """*claim* ended by *failure*: shrug if other connections or this one got somewhere, else stop."""
        others = [other for other in self.extents.claims if other is not claim and other.answered_at]
        brought = claim.brought
        is_progress = brought >= PROGRESS_BYTES and failure.class_ != "stalled" and not self.is_single
        if failure.retriable and not isinstance(failure, (Changed, Expired)) and (others or is_progress):
            self.bumps.append(failure)
            self.changed.set()
            return
        self.is_crowded = claim.answered_at is None and len(self.extents.claims) > 1 and failure.retriable
        self.fail(failure)


def carry(
    transfer: Transfer,
    claim: Claim,
    view: memoryview,
    *,
    access: Sources,
    rate: Rate,
    reuse: Optional[request.Connection],
    sleep: Callable[[float], object],
    learn_size: Callable[[Transfer, int], None],
) -> Optional[request.Connection]:
    """Fetch the stretch *claim* of *transfer* through one request.

    Args:
        view: Where bytes go on their way to the disk.
        access: Explains refusals.
        rate: The cap of all connections.
        reuse: An idle connection from before.
        sleep: Waits, but not longer than the engine lives.
        learn_size: Takes the length of a file that only this answer tells, under the lock.

    Returns:
        The connection, if it can carry another request.

    Raises:
        Failure: whatever ended it before the stretch did.
    """
    answer = transfer.answer
    reuse = _open_connection(answer.location, access, reuse)
    response = request.request(
        answer.location,
        dict(answer.headers, **lookup.range_header(None if transfer.is_single else (claim.start, claim.end))),
        connect_s=transfer.limits.connect_s,
        answer_s=FIRST_BYTE_S,
        stop=lambda: claim.is_abandoned,
        on_socket=claim.hold,
        reuse=reuse,
    )
    try:
        _check(response, transfer, claim, access)
        told = lookup.size_of(response) if transfer.is_single else None
        if told is not None:
            learn_size(transfer, told)
        claim.is_reused = response.connection is reuse
        claim.answered_at = time.monotonic()
        response.prepare(min(SILENCE_S, transfer.limits.stall.for_s))
        if rate.slice_bytes is not None:
            view = view[: rate.slice_bytes]
        _pour(response, transfer, claim, view, rate, sleep)
        return None if claim.is_abandoned else response.release()
    finally:
        response.close()


def _open_connection(
    url: str, access: Sources, reuse: Optional[request.Connection]
) -> Optional[request.Connection]:
    """An open connection to where *url* leads: the caller's own, or one that a look-up left behind."""
    origin = origin_of(url)
    if access.idle is None or (reuse is not None and reuse.origin == origin):
        return reuse
    if reuse is not None:
        reuse.close()
    return access.idle.take(origin)


def _pour(
    response: request.Response,
    transfer: Transfer,
    claim: Claim,
    view: memoryview,
    rate: Rate,
    sleep: Callable[[float], object],
) -> None:
    """Put the body where it belongs, until the claim is over. The only writer of the claim's `position`."""
    fit = min(len(view), transfer.fill_bytes)
    began_at = silent_since = time.monotonic()
    while claim.left > 0 and not claim.is_abandoned:
        count = response.fill(view[: min(fit, claim.left)])
        now = time.monotonic()
        if count:
            fit, silent_since = _fitting(fit, len(view), now - began_at), now
            if claim.position == 0:
                head = bytes(view[: min(count, 1024)])
                verify.refuse_page(head, transfer.name, response.headers.get("Content-Type"))
                verify.check_head(head, transfer.name)
            _land(response, transfer, claim, view, count, now)
            pause_s = rate.take(count)
            if pause_s:
                sleep(pause_s)
            began_at = silent_since = time.monotonic()
        elif response.at_end:
            break
        elif now - silent_since > SILENCE_S:
            raise Failure("stalled", f"{transfer.answer.host} sent nothing for {SILENCE_S:.0f} s")
    transfer.fill_bytes = fit
    if claim.left > 0 and not claim.is_abandoned and transfer.extents.size is not None:
        raise Failure("truncated", f"{transfer.answer.host} ended {claim.left} bytes early")


def _land(
    response: request.Response, transfer: Transfer, claim: Claim, view: memoryview, count: int, now: float
) -> None:
    """*count* bytes have come in: write them, count them, offer them to the hash."""
    # the end may have moved while we were reading; and what nobody waits for any more is dropped
    count, at = 0 if claim.is_abandoned else min(count, claim.left), claim.position
    if count == 0:
        return
    transfer.part.write(view[:count], at)
    if claim.landed_at is None:
        claim.landed_at = now
    if response.backlog > BACKLOG:
        claim.late += count
    claim.position = at + count
    if transfer.hasher is not None:
        transfer.hasher.offer(view[:count], at)


def _fitting(fit: int, most: int, took_s: float) -> int:
    """How much to read at a time: what comes in one to four tenths of a second, so that the pool sees it come."""
    if took_s > 0.4:
        return max(min(most, SMALLEST_FILL), fit // 2)
    return min(most, 2 * fit) if took_s < 0.1 else fit


def _check(response: request.Response, transfer: Transfer, claim: Claim, access: Sources) -> None:
    """Raise unless *response* brings exactly the bytes of *claim*."""
    answer, size = transfer.answer, transfer.extents.size
    moved = response.status in request.REDIRECTS or (
        response.status in EXPIRED and answer.location != answer.url
    )
    is_spoilt = moved and signed.SIGNED.spoil(answer.url, answer.location)
    if moved and (response.status in request.REDIRECTS or answer.is_redirected or is_spoilt):
        raise Expired(f"{answer.host} answered {response.status}: the link has expired")
    if response.status == 416:
        raise Changed(f"{answer.host} has no bytes from {claim.start} on: the file changed there")
    deadline = time.monotonic() + transfer.limits.lookup_s
    access.check(response, url=answer.url, name=answer.name, token=answer.token, deadline=deadline)
    found = lookup.size_of(response)
    if size is not None and found is not None and found != size:
        raise Changed(f"the file at {answer.host} changed from {size} to {found} bytes while it was fetched")
    if transfer.is_single:
        return  # all of it is in this one answer, so it cannot be mixed
    if response.is_inflated:
        raise Unranged(f"{answer.host} compresses the file on the way: of that no part can be asked for")
    new = lookup.validator_of(response.headers)
    if answer.sha256 is None and answer.validator and new and new != answer.validator:
        raise Changed(f"the file at {answer.host} changed while it was fetched")
    if response.status == 200:
        raise Unranged(f"{answer.host} sends the whole file only")
    if not (response.headers.get("Content-Range") or "").startswith(f"bytes {claim.start}-"):
        raise Changed(f"{answer.host} sent another range than was asked for")
