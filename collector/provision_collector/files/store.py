"""One bucket, asked from this machine: where it is, what an object of it is, what there is below a prefix.

Redirects are not followed: a signature holds for one host and region. Where a store says that the bucket is elsewhere, and the
profile does not say where it is, the request is signed anew for there.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree

from provision_agent.contract.bucket_errors import Said, failure_of, read_refusal
from provision_agent.contract.buckets import LONGEST_LIFE_S, MAX_SIGNED, BucketPlace
from provision_agent.contract.failures import Failure

from .keys import Keys

if TYPE_CHECKING:
    import httpx

AMAZON = "s3.amazonaws.com"
GOOGLE = "https://storage.googleapis.com"
FIRST_REGION = "us-east-1"
"""What stores take that have no regions; and where Amazon's oldest buckets are."""
MAX_PAGE_BYTES = 16 << 20
MOVES_MOST = 3
"""How often a store may say that the bucket is elsewhere."""
_Where = tuple[str, str, bool]
"""Region, endpoint, and whether no keys are shown."""
_REGION_IN_HOST = re.compile(r"s3[.-]([a-z]{2,}-[a-z]+-?[0-9]+)\.")


class Facts(NamedTuple):
    """What a store says of an object."""

    size_bytes: int | None = None
    sha256: str | None = None


class Listed(NamedTuple):
    """An object below a prefix."""

    key: str
    size_bytes: int | None


@dataclass
class Store:
    """A bucket and the keys that open it; `region` and `endpoint` are learnt where nobody says them."""

    scheme: str
    bucket: str
    place: BucketPlace
    client: httpx.Client
    keys: Keys | None
    may_be_public: bool = False
    """The keys are not the bucket's own: where they are refused, it is tried without any."""
    endpoint: str = ""
    region: str = ""
    _is_asked: bool = field(default=False)
    _moving: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.endpoint = self.place.endpoint or self.endpoint or (GOOGLE if self.scheme == "gs" else "")
        self.region = self.place.region or self.region

    def url_of(self, key: str) -> str:
        """The https URL of the object *key*; of the bucket for an empty one."""
        escaped = quote(key, safe="/~")
        scheme, _, host = self._home().partition("://")
        if self._style() == "virtual":
            return f"{scheme}://{self.bucket}.{host}/{escaped}"
        return f"{scheme}://{host}/{self.bucket}/{escaped}" if key else f"{scheme}://{host}/{self.bucket}"

    def address_of(self, key: str, *, lives_s: float) -> str:
        """The address that opens *key* for whoever has it."""
        url = self.url_of(key)
        if self.keys is None:
            return url
        return self.keys.address(url, self._signing_region(), lives_s=int(min(lives_s, LONGEST_LIFE_S)))

    def find_region(self) -> None:
        """Ask Amazon, without keys, where the bucket is, unless that is said already."""
        if self.endpoint or self.region or self._is_asked:
            return
        self._is_asked = True
        response = self.client.head(f"https://{AMAZON}/{self.bucket}")
        found = response.headers.get("x-amz-bucket-region", "")
        if re.fullmatch(r"[a-z0-9-]{1,64}", found):
            self.region = found

    def ask(self, key: str) -> Facts:
        """What the store says of the object *key*.

        Raises:
            Failure: it refuses. httpx.HTTPError: it cannot be reached.
        """
        self.find_region()
        for _ in range(MOVES_MOST):
            asked, headers = self._where(), {"x-amz-checksum-mode": "ENABLED"}
            response = self._send("HEAD", self.url_of(key), headers)
            if response.status_code == 200:
                return _facts(response.headers)
            response = self._send("GET", self.url_of(key), {"Range": "bytes=0-0"})
            if response.status_code in (200, 206, 416):
                return Facts()  # it has no HEAD
            said = _said(response)
            if not (
                self._moves(said, response, asked)
                or self._goes_without_keys(said, self.url_of(key), "HEAD", asked)
            ):
                break
        raise self._failure(said, f"{self.scheme}://{self.bucket}/{key}")

    def list(self, prefix: str) -> Iterator[Listed]:
        """All objects below *prefix*, page by page. Raises as `ask`."""
        self.find_region()
        token: str | None = None
        moves = 0
        while True:
            query = {"list-type": "2", "prefix": prefix, "encoding-type": "url", "max-keys": "1000"}
            if token is not None:
                query["continuation-token"] = token
            written = urlencode(query, quote_via=quote, safe="")
            asked, url = self._where(), f"{self.url_of('')}?{written}"
            response = self._send("GET", url, {})
            if response.status_code != 200:
                said = _said(response)
                moves += 1
                if moves <= MOVES_MOST and (
                    self._moves(said, response, asked) or self._goes_without_keys(said, url, "GET", asked)
                ):
                    continue
                raise self._failure(said, f"{self.scheme}://{self.bucket}/{prefix}")
            page, token = _page(response.content, self.bucket)
            yield from page
            if token is None:
                return

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
        signed = headers
        if self.keys is not None:
            signed = self.keys.headers(method, url, headers, self._signing_region())
        return self.client.request(method, url, headers=dict(signed))

    def _home(self) -> str:
        if self.endpoint:
            return self.endpoint
        region = self.region or FIRST_REGION
        return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"

    def _style(self) -> str:
        if self.place.style:
            return self.place.style
        return "virtual" if not self.endpoint and "." not in self.bucket else "path"

    def _signing_region(self) -> str:
        if self.region:
            return self.region
        host = urlsplit(self._home()).hostname or ""
        if self.scheme == "gs" or host.endswith(".r2.cloudflarestorage.com"):
            return "auto"
        found = _REGION_IN_HOST.match(host)
        return found[1] if found else FIRST_REGION

    def _where(self) -> _Where:
        return self.region, self.endpoint, self.keys is None

    def _moves(self, said: Said, response: httpx.Response, asked: _Where) -> bool:
        """Go where the store says that the bucket is; False when it says nothing new, or the profile says where it is.

        Args:
            asked: Where it was asked: another source's answer may have led away meanwhile.
        """
        if not said.is_of_the_region or self.place.region:
            return False
        with self._moving:
            if self._where() == asked:
                self.region = said.region or self.region
                home = self._home_in(response.headers.get("location", ""))
                self.endpoint = home if self.endpoint and home else self.endpoint
            return self._where() != asked

    def _home_in(self, location: str) -> str:
        """The endpoint that a redirect leads to, when it is one of the same store."""
        try:
            there, here = urlsplit(location), urlsplit(self._home())
            host, port = (there.hostname or "").removeprefix(f"{self.bucket}."), there.port
        except ValueError:
            return ""
        is_ours = host == here.hostname or _parent(host) == _parent(here.hostname or "")
        if there.scheme != here.scheme or not host or not is_ours:
            return ""
        return f"{there.scheme}://{host}{f':{port}' if port else ''}"

    def _goes_without_keys(self, said: Said, url: str, method: str, asked: _Where) -> bool:
        """Is it a public bucket, which the keys of this machine have nothing to do with?"""
        if not self.may_be_public or asked[2] or said.status != 403 or said.is_skewed:
            return False
        if self.keys is None:
            return True
        if self.client.request(method, url).status_code != 200:
            return False
        self.keys = None
        return True

    def _failure(self, said: Said, url: str) -> Failure:
        host = urlsplit(self.url_of("")).hostname or self.bucket
        return failure_of(said, url=url, bucket=self.bucket, host=host, is_signed=self.keys is not None)


def _parent(host: str) -> str:
    """The part of a name that its owner has: the last two labels; a whole address of numbers."""
    return host if re.fullmatch(r"[0-9.]+|.*:.*", host) else ".".join(host.split(".")[-2:])


def _said(response: httpx.Response) -> Said:
    return read_refusal(
        response.status_code, response.content, response.headers.get("x-amz-bucket-region") or None
    )


def _facts(headers: httpx.Headers) -> Facts:
    size = headers.get("content-length", "")
    return Facts(int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None, _sha256(headers))


def _sha256(headers: httpx.Headers) -> str | None:
    """The hash of the whole object, where the store keeps one; an ETag is none, and a checksum of parts is none."""
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        digest = base64.b64decode(headers.get("x-amz-checksum-sha256", ""), validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == 32 else None


def _page(data: bytes, bucket: str) -> tuple[list[Listed], str | None]:
    """The objects of one page, and the token of the next one.

    Raises:
        Failure: `upstream_down`, it is no listing.
    """
    try:
        if len(data) > MAX_PAGE_BYTES or b"<!DOCTYPE" in data[:1000] or b"<!ENTITY" in data:
            raise ElementTree.ParseError("it is too long, or no plain XML")
        root = ElementTree.fromstring(data)  # noqa: S314 - without a DTD nothing in it can grow
    except ElementTree.ParseError as error:
        raise Failure("upstream_down", f"the listing of `{bucket}` cannot be read: {error}") from None
    escaped = root.findtext("{*}EncodingType") == "url"
    found = []
    for entry in root.iterfind("{*}Contents"):
        key, size = entry.findtext("{*}Key") or "", entry.findtext("{*}Size") or ""
        is_number = re.fullmatch(r"[0-9]{1,18}", size) is not None
        found.append(Listed(unquote(key) if escaped else key, int(size) if is_number else None))
    if len(found) > MAX_SIGNED:
        raise Failure("upstream_down", f"the listing of `{bucket}` has more entries than a page may have")
    is_cut = root.findtext("{*}IsTruncated") == "true"
    return found, (root.findtext("{*}NextContinuationToken") or None) if is_cut else None
