"""Ask a source for a file: is it there, may we have it, how large is it, which bytes does it start with?

The one place that knows credentials. A token goes to the https hosts of its rule and, once a redirect has left
the origin that it was meant for, nowhere any more.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import unquote, urlsplit

from ...contract.failures import Failure
from ...contract.plan import SecretRule
from .. import verify
from ..http import errors, request
from ..http.transport import Origin, Stop, origin_of
from . import addresses

HEAD_BYTES = 1024
"""How much of a file is read to know what it is; enough for a login page to give itself away."""
HEAD_WITHIN_S = 5.0
LISTING_BYTES = 8 << 20
MOST_BYTES = 1 << 50
"""No file is larger; what says so is not to be believed."""
MOST_DIGITS = 20
_HASH = re.compile(r'"?([0-9a-f]{64})"?')


@dataclass(frozen=True)
class Answer:
    """What a source says of a file, and where and how its bytes are to be had from now on."""

    url: str
    """As the plan has it."""
    location: str
    """Where redirects ended; it may expire, then `url` is asked again."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What must be sent to `location`."""
    size_bytes: Optional[int] = None
    sha256: Optional[str] = None
    validator: Optional[str] = None
    """A strong ETag or a Last-Modified: while it stays, so does the content."""
    has_ranges: bool = True
    name: Optional[str] = None
    head: bytes = field(default=b"", repr=False)
    token: Optional[str] = None
    """The name of the secret that went along."""
    first_byte_s: float = 0.0

    @property
    def is_redirected(self) -> bool:
        return urlsplit(self.location)[1:3] != urlsplit(addresses.address_of(self.url))[1:3]

    @property
    def host(self) -> str:
        return urlsplit(self.location).hostname or ""


class Sources:
    """Every source that a run may ask, with the secrets that it may show to them. Safe to use from any thread."""

    def __init__(self, rules: Sequence[SecretRule], secrets: Mapping[str, str]) -> None:
        self._tokens: List[Tuple[str, Tuple[str, ...]]] = [
            (rule.name, rule.hosts) for rule in rules if secrets.get(rule.name)
        ]
        self._values = {rule.name: secrets[rule.name] for rule in rules if secrets.get(rule.name)}

    @property
    def secret_values(self) -> List[str]:
        """What must never be written anywhere."""
        return list(self._values.values())

    def ask(
        self,
        url: str,
        *,
        within_s: float,
        connect_s: float = 10.0,
        stop: Stop = lambda: False,
    ) -> Answer:
        """Ask *url* about its file, by fetching the first bytes of it.

        Raises:
            Failure: `gated`, `unauthorized`, `not_found`, `not_a_model`, `rate_limited` (with `wait_s`), `unreachable`,
                `stalled` (no answer *within_s*), `tls` or `upstream_down`.
        """
        address = addresses.address_of(url)
        if urlsplit(address).scheme == "file":
            return _ask_disk(url, address)
        deadline = time.monotonic() + within_s
        span = (0, HEAD_BYTES)
        response, answer = self.open(url, span=span, deadline=deadline, connect_s=connect_s, stop=stop)
        try:
            head = response.read(HEAD_BYTES, HEAD_WITHIN_S, stop)
        finally:
            response.close()
        name = answer.name or ""
        verify.refuse_page(head, name, response.headers.get("Content-Type"), self.secret_values, url=url)
        sha256 = answer.sha256 or self._listed_hash(url, answer, deadline)
        return _replace(answer, head=head, sha256=sha256)

    def open(
        self,
        url: str,
        *,
        span: Optional[Tuple[int, Optional[int]]],
        deadline: float,
        connect_s: float,
        stop: Stop = lambda: False,
        on_socket: Callable[[socket.socket], None] = lambda opened: None,
    ) -> "Tuple[request.Response, Answer]":
        """Ask for bytes of *url*'s file, through all redirects.

        Args:
            span: First and end (exclusive; None: the file's) of the wanted bytes; None asks for the whole file.

        Returns:
            The answer with its body still to be read, and what it says.

        Raises:
            Failure: as `ask`.
        """
        address = addresses.address_of(url)
        began = time.monotonic()
        response, hops = request.follow(
            address,
            lambda at, before: dict(range_header(span), **self._credentials(address, at, before)[0]),
            deadline=deadline,
            connect_s=connect_s,
            stop=stop,
            on_socket=on_socket,
        )
        headers, token = self._credentials(address, response.url, hops)
        try:
            self.check(response, url=url, token=token, deadline=deadline)
            size_bytes = size_of(response)
        except BaseException:
            response.close()
            raise
        answer = Answer(
            url=url,
            location=response.url,
            headers=headers,
            size_bytes=size_bytes,
            sha256=_learnt_hash(hops, response),
            validator=validator_of(response.headers),
            has_ranges=response.status == 206,
            name=_usable_name(address, response),
            token=token,
            first_byte_s=time.monotonic() - began,
        )
        return response, answer

    def check(self, response: request.Response, *, url: str, token: Optional[str], deadline: float) -> None:
        """Raise what an answer that brings no bytes means."""
        status = response.status
        if status == 200 or status == 206 or (status == 416 and size_of(response) == 0):
            if (response.headers.get("Content-Encoding") or "identity") != "identity":
                raise Failure("not_a_model", "the server compresses the file on the way, though asked not to")
            if _is_login(url, response.url):
                raise errors.refusal(401, {}, b"", url=url, token=token, secrets=[])
            return
        body = response.read(2 * errors.QUOTED_BYTES, 2.0)
        failure = errors.refusal(
            status, response.headers, body, url=response.url, token=token, secrets=self.secret_values
        )
        wanted = addresses.hub_file(url)
        if (
            failure.class_ == "not_found"
            and wanted
            and response.headers.get("X-Error-Code") != "RepoNotFound"
        ):
            nearest = self._nearest(wanted, deadline)
            if nearest:
                failure.hint = f"did you mean `{nearest}`? correct the profile"
        raise failure

    def _credentials(
        self, address: str, at: str, hops: List[request.Hop]
    ) -> "Tuple[Dict[str, str], Optional[str]]":
        """Headers for *at*, the next URL on the way from *address*, and the name of the secret in them."""
        origin = origin_of(address)
        if origin_of(at) != origin or any(origin_of(hop.url) != origin for hop in hops):
            return {}, None
        return self._authorization(address, origin)

    def _authorization(self, address: str, origin: Origin) -> "Tuple[Dict[str, str], Optional[str]]":
        parts = urlsplit(address)
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}, None
        if origin.scheme != "https":
            return {}, None
        for name, hosts in self._tokens:
            if origin.host in hosts or f"{origin.host}:{origin.port}" in hosts:
                return {"Authorization": f"Bearer {self._values[name]}"}, name
        return {}, None

    def _nearest(self, wanted: addresses.HubFile, deadline: float) -> Optional[str]:
        listing = self._fetch_small(wanted.listing, deadline)
        return errors.did_you_mean(wanted, listing) if listing else None

    def _listed_hash(self, url: str, answer: Answer, deadline: float) -> Optional[str]:
        """What Civitai's catalogue says about the file; its download link says nothing."""
        version = addresses.civitai_version(url)
        if version is None:
            return None
        host = origin_of(addresses.address_of(url)).host
        listing = self._fetch_small(f"https://{host}/api/v1/model-versions/{version}", deadline)
        return civitai_hash(listing, answer.name, answer.size_bytes) if listing else None

    def _fetch_small(self, url: str, deadline: float) -> Optional[bytes]:
        """A catalogue's answer, None when there is none: it only makes an answer better, so its failures do not matter."""
        try:
            response, _ = request.follow(
                url,
                lambda at, before: self._credentials(url, at, before)[0],
                deadline=min(deadline, time.monotonic() + 10.0),
                connect_s=5.0,
            )
        except Failure:
            return None
        try:
            return response.read(LISTING_BYTES, 10.0) if response.status == 200 else None
        finally:
            response.close()


def range_header(span: Optional[Tuple[int, Optional[int]]]) -> Dict[str, str]:
    """The header that asks for *span*; its last position is inclusive on the wire."""
    if span is None:
        return {}
    return {"Range": f"bytes={span[0]}-{'' if span[1] is None else span[1] - 1}"}


def size_of(response: request.Response) -> Optional[int]:
    """The whole file's length, as a 200, 206 or 416 tells it; raises as `sane_size`."""
    match = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", response.headers.get("Content-Range") or "", re.ASCII)
    if match:
        return sane_size(match[1], response.url)
    if response.status != 200 or response.remaining is None:
        return None
    return sane_size(str(response.remaining), response.url)


def sane_size(digits: str, url: str) -> int:
    """The number of bytes that a source tells.

    Raises:
        Failure: `size`, when no file is that large: the source is not to be believed.
    """
    size = int(digits) if len(digits) <= MOST_DIGITS else MOST_BYTES + 1
    if size > MOST_BYTES:
        host = urlsplit(url).hostname or url
        told = digits if len(digits) <= MOST_DIGITS else f"{digits[:MOST_DIGITS]}… ({len(digits)} digits)"
        raise Failure(
            "size",
            f"{host} says that the file has {told} bytes: no file is that large",
            hint="the source's answer is wrong: use a mirror or another source of the file",
        )
    return size


def validator_of(headers: request.Headers) -> Optional[str]:
    """What tells this content from a later one; weak ETags promise too little."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def civitai_hash(listing: bytes, name: Optional[str], size_bytes: Optional[int]) -> Optional[str]:
    """The sha256 of the one file in a catalogue's *listing* (JSON) that has this name or about this size."""
    try:
        files = json.loads(listing)["files"]
        by_name = [file for file in files if name and file.get("name") == name]
        by_size = [file for file in files if size_bytes and abs(file["sizeKB"] * 1024 - size_bytes) < 1024]
        fitting = [file for file in by_size if file in by_name] or by_size
        found = _HASH.fullmatch(fitting[0]["hashes"]["SHA256"].lower()) if len(fitting) == 1 else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return found[1] if found else None


def _learnt_hash(hops: List[request.Hop], response: request.Response) -> Optional[str]:
    """The sha256 that a model hub gives as the ETag of a large file."""
    for url, headers in [*hops, request.Hop(response.url, response.headers)]:
        linked = _HASH.fullmatch(headers.get("X-Linked-Etag") or "")
        if linked:
            return linked[1]
        direct = _HASH.fullmatch(headers.get("ETag") or "")
        if direct and addresses.hub_file(url):
            return direct[1]
    return None


def _usable_name(address: str, response: request.Response) -> Optional[str]:
    try:
        return addresses.name_of(address, response.headers.get("Content-Disposition"))
    except Failure:
        return None


def _is_login(url: str, location: str) -> bool:
    path = urlsplit(location).path.rstrip("/").lower()
    return location != url and path.rpartition("/")[2] in ("login", "signin", "sign-in", "sign_in")


def _ask_disk(url: str, address: str) -> Answer:
    path = unquote(urlsplit(address).path)
    try:
        with open(path, "rb") as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(HEAD_BYTES)
    except OSError as error:
        raise Failure(
            "not_found", f"cannot read `{path}`: {error.strerror}", hint="check the path after `file://`"
        ) from None
    return Answer(url=url, location=address, size_bytes=size, name=os.path.basename(path), head=head)


def _replace(answer: Answer, *, head: bytes, sha256: Optional[str]) -> Answer:
    return Answer(**dict(vars(answer), head=head, sha256=sha256))
