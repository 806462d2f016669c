"""Buckets: where one is, what a plan wants of it, and the addresses that whoever holds its keys signs for an instance. Pure.

A plan names ``s3://BUCKET/KEY`` only. The user's machine lists and signs; a signed address opens one object for a while.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Container, Dict, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import parse_qsl, urlsplit

from .cases import MAX_PARTICULARS
from .failures import Failure
from .parsing import bounded
from .plan import Download, Plan
from .plan_parts import SecretRule
from .source_kinds import means_many_files
from .version import FORMAT, RUN_ID_PATTERN

MAX_SIGNED = 20_000
"""Objects of one run whose addresses are signed."""
MAX_URL_CHARS = 4096
MAX_ADDRESS_CHARS = 16_384
"""A session token makes an address long."""
LONGEST_LIFE_S = 7 * 24 * 3600
"""No store takes an address that is signed for longer."""
MAX_HIDDEN = 64
MAX_ASKED = 100
"""Addresses that an instance asks for at once."""
KEYED = ("access_key", "secret_key", "session_token")

_FORM = re.compile(r"(s3|gs)://([^/?#]+)/(.*)", re.S)


class Object(NamedTuple):
    """What ``s3://BUCKET/KEY`` means: a key is taken as it stands, nothing in it is escaped."""

    scheme: str
    bucket: str
    key: str
    """Empty, or with a ``/`` at its end: all objects whose keys begin so."""


def object_of(url: str) -> Optional[Object]:
    """What *url* means; None where it is no address of a bucket."""
    found = _FORM.fullmatch(url)
    return Object(*found.groups()) if found else None


@dataclass(frozen=True)
class BucketPlace:
    """Where a bucket is, and the names of the secrets that open it. It stays on the user's machine."""

    endpoint: str = bounded("", max_chars=MAX_URL_CHARS)
    """Empty: the store's own."""
    region: str = bounded("", max_chars=64)
    style: str = bounded("", one_of=("", "path", "virtual"))
    access_key: str = bounded("", max_chars=256)
    secret_key: str = bounded("", max_chars=256)
    session_token: str = bounded("", max_chars=256)

    @property
    def secrets(self) -> Tuple[str, ...]:
        """The names of its secrets."""
        return tuple(filter(None, (getattr(self, name) for name in KEYED)))


@dataclass(frozen=True)
class BucketSource:
    """What a plan wants of a bucket: an object, or those of a prefix that fit `include` and not `exclude`."""

    url: str = bounded(max_chars=MAX_URL_CHARS)
    include: Tuple[str, ...] = ()
    exclude: Tuple[str, ...] = ()

    def wants(self, key: str) -> bool:
        """Whether an object of its bucket with that *key* is one of those that it means."""
        found = object_of(self.url)
        if found is None or not means_many_files(self.url):
            return found is not None and found.key == key
        is_file = key.startswith(found.key) and not key.endswith("/")
        return is_file and is_wanted(key, self.include, self.exclude)


def is_wanted(path: str, include: Tuple[str, ...], exclude: Tuple[str, ...]) -> bool:
    """As model hubs' own tools match: against the whole *path*, and ``*`` goes across folders."""
    is_included = not include or any(fnmatchcase(path, pattern) for pattern in include)
    return is_included and not any(fnmatchcase(path, pattern) for pattern in exclude)


@dataclass(frozen=True)
class SignedSource:
    """What became of an address of a plan: the signed one, or why there is none. In memory only, like a secret."""

    url: str = bounded(max_chars=MAX_URL_CHARS)
    """As the plan has it, or that of an object of a prefix."""
    address: str = bounded("", max_chars=MAX_ADDRESS_CHARS)
    size_bytes: Optional[int] = bounded(None, low=0)
    sha256: Optional[str] = bounded(None, pattern="[0-9a-f]{64}")
    of: str = bounded("", max_chars=MAX_URL_CHARS)
    """The prefix that it was listed below, as the plan has it."""
    class_: str = bounded("", max_chars=64, alias="class")
    message: str = bounded("", max_chars=4096)
    case: Optional[str] = bounded(None, max_chars=64)
    about: Dict[str, str] = bounded(factory=dict, max_entries=MAX_PARTICULARS)

    @classmethod
    def refused(cls, url: str, failure: Failure) -> SignedSource:
        """There is no address of *url*, because of *failure*."""
        return cls(
            url, class_=failure.class_, message=failure.message, case=failure.case, about=failure.about
        )

    @property
    def failure(self) -> Optional[Failure]:
        """Why there is no address; None where there is one."""
        if self.address or not self.class_:
            return None
        return Failure(self.class_, self.message, case=self.case, about=self.about)


@dataclass(frozen=True)
class Buckets:
    """All that must be known of a run's buckets to sign for it; no value of a secret, and no word of an instance."""

    places: Dict[str, BucketPlace] = bounded(factory=dict, max_entries=1000)
    secrets: Tuple[SecretRule, ...] = ()
    """Those that the places name."""
    sources: Tuple[BucketSource, ...] = ()

    def of_plan(self, plan: Plan) -> Buckets:
        """The same, with what *plan* wants of them."""
        return replace(self, sources=sources_of(plan, self.places))

    def only(self, urls: Sequence[str]) -> Buckets:
        """The same, for those of *urls* that are objects which `sources` mean: an instance may ask for no others."""
        known = tuple(BucketSource(url) for url in urls if is_among(url, self.sources))
        return replace(self, sources=known)


def sources_of(plan: Plan, places: Container[str]) -> Tuple[BucketSource, ...]:
    """What *plan* wants of buckets that takes a signature or a listing: all of ``s3://``; of ``gs://``, which may be
    public, what is a prefix or in one of *places*."""
    if "downloads" not in plan.steps:
        return ()
    wanted = (_wanted(item, url) for item in plan.downloads for url in urls_of(item))
    return tuple(
        dict.fromkeys(each for each in wanted if each is not None and _takes_a_signature(each.url, places))
    )


def urls_of(item: Download) -> Tuple[str, ...]:
    """Every address that *item* may come from."""
    return (item.url, *item.mirrors, *(() if item.substitute is None else (item.substitute.url,)))


def _wanted(item: Download, url: str) -> Optional[BucketSource]:
    if object_of(url) is None:
        return None
    return BucketSource(url, item.include, item.exclude) if means_many_files(url) else BucketSource(url)


def _takes_a_signature(url: str, places: Container[str]) -> bool:
    found = object_of(url)
    return found is not None and (found.scheme == "s3" or found.bucket in places or means_many_files(url))


def is_among(url: str, sources: Tuple[BucketSource, ...]) -> bool:
    """Whether *url*, which an instance asks for, is the address of an object that one of *sources* means."""
    found = object_of(url)
    if found is None or means_many_files(url):
        return False
    for source in sources:
        owner = object_of(source.url)
        if owner is not None and owner[:2] == found[:2] and source.wants(found.key):
            return True
    return False


def hidden_parts(signed: Sequence[SignedSource]) -> Dict[str, str]:
    """What nobody may see of signed addresses, by a name for people: session tokens, and signatures.

    In an address they are left out wherever it is shown; this is for what stands alone. Of many signatures the first few.
    """
    hidden: Dict[str, str] = {}
    for parameter, what in (("X-Amz-Security-Token", "session token"), ("X-Amz-Signature", "signature")):
        for source in signed:
            value = dict(parse_qsl(urlsplit(source.address).query)).get(parameter, "")
            if value and value not in hidden.values() and len(hidden) < MAX_HIDDEN:
                hidden[f"the {what} of {source.url}"] = value
    return hidden


def signed_field() -> Tuple[SignedSource, ...]:
    """A field of a message that holds all of a run's."""
    found: Tuple[SignedSource, ...] = bounded((), max_entries=MAX_SIGNED)
    return found


@dataclass(frozen=True)
class SignedRequest:
    """Addresses that a run which is going asked for by `sources_needed`, signed anew."""

    run: str = bounded(pattern=RUN_ID_PATTERN)
    workspace: str = bounded(max_chars=4096)
    sources: Tuple[SignedSource, ...] = bounded((), max_entries=MAX_ASKED)
    format: int = FORMAT


@dataclass(frozen=True)
class SignedAnswer:
    """Whether the run waited for them, and has them now."""

    taken: bool = False
    format: int = FORMAT
