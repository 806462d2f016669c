"""Addresses of objects in buckets, signed here for an instance: the keys stay, each address opens one object for a while.

Stores are asked from here, too: whether an object is there, how large it is, what its hash is if they keep one, and what there is
below a prefix. Where one cannot be reached from here the address is signed all the same: the instance may reach it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from provision_agent.contract.buckets import (
    KEYED,
    MAX_SIGNED,
    BucketPlace,
    Buckets,
    BucketSource,
    Object,
    SignedSource,
    object_of,
)
from provision_agent.contract.failures import Failure
from provision_agent.contract.source_kinds import means_many_files

from ..profile import values_of
from .keys import Configured, Keys, configured
from .store import Facts, Store

if TYPE_CHECKING:
    import httpx

CONNECT_WITHIN_S, ANSWER_WITHIN_S = 5.0, 15.0
ASK_WITHIN_S = 60.0
"""For all objects together; what has not been asked by then is signed without."""
AT_ONCE = 8
DECIDED_THERE = "bucket_denied"
"""What a store refuses to keys from here it may allow from the instance: a rule may name addresses."""


def sign(
    buckets: Buckets, values: Mapping[str, str], *, lives_s: float, uses_aws: bool = True
) -> tuple[SignedSource, ...]:
    """Sign an address for each source of *buckets*; of a prefix, for all objects below it that are wanted.

    Args:
        values: Secrets by name.
        lives_s: How long an address is to work, in seconds; what lent keys allow if that is less.
        uses_aws: May this machine's own AWS configuration open Amazon's buckets?

    Returns:
        For each source an address, or why there is none.

    Raises:
        UsageError: signing needs botocore, which is not installed, or the AWS configuration is broken.
    """
    if not buckets.sources:
        return ()
    import httpx

    held, _ = values_of(buckets.secrets, values)
    limits = httpx.Timeout(ANSWER_WITHIN_S, connect=CONNECT_WITHIN_S)
    with httpx.Client(timeout=limits, follow_redirects=False) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        work = _Work(buckets, held, client, lives_s=lives_s, uses_aws=uses_aws)
        work.open()
        signed = [each for found in pool.map(work.sign, buckets.sources) for each in found]
    return tuple(signed[:MAX_SIGNED])


@dataclass(frozen=True)
class _Opened:
    """A bucket, or why it cannot be opened."""

    store: Store | None
    failure: Failure | None = None


class _Work:
    def __init__(
        self,
        buckets: Buckets,
        values: Mapping[str, str],
        client: httpx.Client,
        *,
        lives_s: float,
        uses_aws: bool,
    ) -> None:
        self._buckets = buckets
        self._values = values
        self._client = client
        self._lives_s = lives_s
        self._uses_aws = uses_aws
        self._ends_at = time.monotonic() + ASK_WITHIN_S
        self._opened: dict[tuple[str, str], _Opened] = {}
        self._own: Configured | None = None

    def open(self) -> None:
        """Find out how each bucket is opened, before any is asked."""
        for key, place in _places(self._buckets).items():
            try:
                self._opened[key] = _Opened(self._store(*key, place))
            except Failure as failure:
                self._opened[key] = _Opened(None, failure)

    def sign(self, source: BucketSource) -> list[SignedSource]:
        """What becomes of one source."""
        wanted = object_of(source.url)
        assert wanted is not None, "only addresses of buckets are sources"
        opened = self._opened[wanted.scheme, wanted.bucket]
        try:
            if opened.store is None:
                raise opened.failure or Failure("bug", f"{source.url} was not opened")
            if means_many_files(source.url):
                return list(self._below(source, wanted, opened.store))
            return [self._one(source.url, wanted.key, opened.store)]
        except Failure as failure:
            return [SignedSource.refused(source.url, failure)]

    def _store(self, scheme: str, bucket: str, place: BucketPlace) -> Store:
        names = [getattr(place, name) for name in KEYED if getattr(place, name)]
        if missing := [name for name in names if name not in self._values]:
            shown = " and ".join(f"`{name}`" for name in missing)
            raise Failure(
                "unauthorized",
                f"{shown}, which the bucket `{bucket}` needs, is not set",
                case="bucket_keys_unset",
                about={"names": shown},
            )
        make = partial(Store, scheme, bucket, place, self._client)
        if names:
            given = {name: self._values.get(getattr(place, name)) for name in KEYED}
            token = given["session_token"]
            return make(Keys(given["access_key"] or "", given["secret_key"] or "", token))
        if scheme != "s3" or place.endpoint or not self._uses_aws:
            return make(None)
        own = self._configured()
        return make(own.keys, may_be_public=True, endpoint=own.endpoint, region=_own_region(own))

    def _configured(self) -> Configured:
        if self._own is None:
            self._own = configured()
        return self._own

    def _one(self, url: str, key: str, store: Store) -> SignedSource:
        facts = self._asked(key, store)
        address = store.address_of(key, lives_s=self._lives_s)
        return SignedSource(url, address, size_bytes=facts.size_bytes, sha256=facts.sha256)

    def _asked(self, key: str, store: Store) -> Facts:
        import httpx

        if time.monotonic() > self._ends_at:
            return Facts()
        try:
            return store.ask(key)
        except Failure as failure:
            if failure.retriable or failure.case == DECIDED_THERE:
                return Facts()
            raise
        except httpx.HTTPError:
            return Facts()

    def _below(self, source: BucketSource, wanted: Object, store: Store) -> Iterator[SignedSource]:
        import httpx

        try:
            files = [each for each in store.list(wanted.key) if source.wants(each.key)]
        except httpx.HTTPError as error:
            what = f"{source.url} cannot be listed from here: {type(error).__name__} {error}"
            raise Failure("unreachable", what) from None
        if not files:
            raise Failure("not_found", f"nothing below {source.url} is wanted", case="bucket_empty")
        if len(files) > MAX_SIGNED:
            what = f"{len(files)} objects below {source.url} are wanted: {MAX_SIGNED} are the most"
            raise Failure("conflict", what, case="bucket_empty")
        for file in files:
            yield SignedSource(
                f"{wanted.scheme}://{wanted.bucket}/{file.key}",
                store.address_of(file.key, lives_s=self._lives_s),
                size_bytes=file.size_bytes,
                of=source.url,
            )


def _own_region(own: Configured) -> str:
    return own.region if own.endpoint else ""  # of Amazon's buckets each knows its own


def _places(buckets: Buckets) -> dict[tuple[str, str], BucketPlace]:
    """The buckets that are wanted, each with what is known of it."""
    found = (object_of(source.url) for source in buckets.sources)
    return {
        (each.scheme, each.bucket): buckets.places.get(each.bucket, BucketPlace())
        for each in found
        if each is not None
    }


sign_without_aws = partial(sign, uses_aws=False)
"""As `sign`, and this machine's own AWS configuration opens nothing."""
