"""How much a wheel takes once it is unpacked, told from its end: a zip archive lists there what is in it.

Of a small wheel that is not worth a request, and where a server gives no ranges, it is estimated by `RATIOS`.
"""

from __future__ import annotations

import hashlib
import struct
import time
from typing import NamedTuple, Optional, Tuple

from ...contract.failures import Failure
from ...downloads import Sources

SMALL_BYTES = 256 << 10
RATIOS = ((256 << 10, 4.3), (16 << 20, 4.0), (64 << 20, 2.9), (1 << 62, 1.9))
"""Below each size: small wheels are mostly text, large ones code for GPUs, as measured over those of a ComfyUI (`docs/DECISIONS.md`)."""
BLOCK_BYTES = 4096
"""A file takes whole blocks."""
TAIL_BYTES = 64 << 10
MAX_LISTING_BYTES = 32 << 20
ASK_S = 15.0
_END = struct.Struct("<4sHHHHIIH")
_EXTRA = struct.Struct("<HH")
_BEYOND = 0xFFFFFFFF
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")


class Room(NamedTuple):
    """Of one wheel; None: nobody tells."""

    size_bytes: Optional[int]
    unpacked_bytes: Optional[int]


def room_of(url: str, size_bytes: Optional[int], access: Sources, *, until: float) -> Room:
    """What the wheel at *url* has, and what it takes unpacked.

    Args:
        size_bytes: Its size, where the index tells it.
        access: Asks the server.
        until: When to give up, by the monotonic clock.
    """
    if size_bytes is not None and size_bytes < SMALL_BYTES:
        return Room(size_bytes, estimated(size_bytes))
    try:
        if size_bytes is None:
            response, answer = access.open(url, span=(0, 1), deadline=_deadline(until), connect_s=10.0)
            response.close()
            size_bytes = answer.size_bytes
        if size_bytes is None:
            return Room(None, None)
        return Room(size_bytes, _listed(url, size_bytes, access, until) or estimated(size_bytes))
    except Failure:
        return Room(size_bytes, None if size_bytes is None else estimated(size_bytes))


def estimated(size_bytes: int) -> int:
    """What a wheel of *size_bytes* takes unpacked, about."""
    ratio = next((ratio for below, ratio in RATIOS if size_bytes < below), 1.0)
    return int(size_bytes * ratio) + BLOCK_BYTES


def _listed(url: str, size_bytes: int, access: Sources, until: float) -> Optional[int]:
    """The sum of what the archive says is in it; None where it says so in no way that is read here."""
    began = max(0, size_bytes - TAIL_BYTES)
    tail = _read(url, (began, size_bytes), access, until)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + _END.size:
        return None
    _, _, _, _, entries, length, offset, _ = _END.unpack_from(tail, at)
    if length > MAX_LISTING_BYTES or offset + length > size_bytes:
        return None  # of a form for archives beyond 4 GiB, or none at all
    listing = (
        tail[offset - began : at] if offset >= began else _read(url, (offset, offset + length), access, until)
    )
    return listed_bytes(listing, entries)


def sha256_of(url: str, access: Sources, *, until: float) -> Optional[str]:
    """The hash of the wheel at *url*, which is read for it; None where it cannot be had in time."""
    try:
        response, answer = access.open(url, span=None, deadline=until, connect_s=10.0)
    except Failure:
        return None
    digest, landed = hashlib.sha256(), 0
    try:
        while not response.at_end:
            data = response.read(1 << 20, max(0.1, until - time.monotonic()))
            landed += len(data)
            digest.update(data)
    except Failure:
        return None
    finally:
        response.close()
    return digest.hexdigest() if answer.size_bytes in (None, landed) else None


def listed_bytes(listing: bytes, entries: int) -> Optional[int]:
    """What the *entries* of a zip archive's central directory take on a disk; None where it is cut or is none."""
    total, at = 0, 0
    for _ in range(entries):
        if len(listing) < at + _ENTRY.size:
            return None
        fields = _ENTRY.unpack_from(listing, at)
        if fields[0] != b"PK\1\2":
            return None
        size, extra_at = fields[9], at + _ENTRY.size + fields[10]
        if size == _BEYOND:
            size = _of_64_bits(listing[extra_at : extra_at + fields[11]])
        if size is None:
            return None
        total += -(-size // BLOCK_BYTES) * BLOCK_BYTES
        at = extra_at + fields[11] + fields[12]
    return total


def _of_64_bits(extra: bytes) -> Optional[int]:
    """The size of a file as the *extra* fields of its entry say it, where 32 bits do not hold it."""
    at = 0
    while len(extra) >= at + _EXTRA.size:
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == 1 and length >= 8 and len(extra) >= at + 8:
            return int.from_bytes(extra[at : at + 8], "little")
        at += length
    return None


def _read(url: str, span: Tuple[int, int], access: Sources, until: float) -> bytes:
    deadline = _deadline(until)
    response, _ = access.open(url, span=span, deadline=deadline, connect_s=10.0)
    try:
        if response.status != 206:
            return b""  # it would be all of it
        data = b""
        while len(data) < span[1] - span[0] and not response.at_end:
            data += response.read(1 << 20, max(0.1, deadline - time.monotonic()))
        return data
    finally:
        response.close()


def _deadline(until: float) -> float:
    return min(until, time.monotonic() + ASK_S)
