"""Addresses in buckets, signed on this side: ahead of a run, and anew when it says that one has stopped working."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from provision_agent.contract.buckets import LONGEST_LIFE_S, Buckets, SignedSource

BEYOND_S = 900.0
"""How much longer than the run may take an address works: clocks differ, and starting takes a while."""
LIKE_NEW_S = 300.0
"""What was signed ahead is used when the run begins within this."""


class Sign(Protocol):
    """Signs the sources of *buckets*; it may ask stores, and blocks meanwhile: see `files.buckets.sign`."""

    def __call__(
        self, buckets: Buckets, values: Mapping[str, str], *, lives_s: float
    ) -> tuple[SignedSource, ...]: ...


class Signing:
    """Signs for one run. `buckets` is what this side itself knows of them, never an instance's word."""

    def __init__(self, sign: Sign | None, limit_s: float) -> None:
        self._sign = sign
        self._lives_s = min(limit_s + BEYOND_S, LONGEST_LIFE_S)
        self._ahead: tuple[SignedSource, ...] | None = None
        self._ahead_at = 0.0

    async def ahead(self, buckets: Buckets, values: Mapping[str, str]) -> None:
        """Sign everything before it is wanted. Raises as the signing function."""
        self._ahead = await self._signed(buckets, values)
        self._ahead_at = asyncio.get_running_loop().time()

    async def all_of(self, buckets: Buckets, values: Mapping[str, str]) -> tuple[SignedSource, ...]:
        """Addresses of everything. Raises as the signing function."""
        is_new = asyncio.get_running_loop().time() - self._ahead_at < LIKE_NEW_S
        found, self._ahead = self._ahead if is_new else None, None
        return found if found is not None else await self._signed(buckets, values)

    async def some_of(
        self, buckets: Buckets, values: Mapping[str, str], urls: Sequence[str]
    ) -> tuple[SignedSource, ...]:
        """New addresses of those of *urls* that are the run's. Raises as the signing function."""
        return await self._signed(buckets.only(urls), values)

    async def _signed(self, buckets: Buckets, values: Mapping[str, str]) -> tuple[SignedSource, ...]:
        if self._sign is None or not buckets.sources:
            return ()
        sign = self._sign
        return await asyncio.to_thread(lambda: sign(buckets, values, lives_s=self._lives_s))
