"""Ask a source for a file: is it there, may we have it, how large is it, which bytes does it start with?

The one place that knows credentials. A token goes to the https hosts of its rule and, once a redirect has left
the origin that it was meant for, nowhere any more.
"""

from __future__ import annotations

import base64
import socket
import threading
import time
from dataclasses import replace
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple
from urllib.parse import unquote, urlsplit

from ...contract.failures import Failure
from ...contract.plan import Download
from ...contract.plan_parts import SecretRule
from .. import verify
from ..http import cookies, errors, fields, inflate, request
from ..http.idle import IdleConnections
from ..http.transport import Origin, Stop, origin_of
from . import addresses, signed
from .answer import HEAD_BYTES, Answer, Chosen
from .documents import CONNECT_S, Documents
from .http import Fetch
from .own_headers import NOTHING_SHOWN, OwnHeaders, Shown
from .told import range_header, sane_size, size_of, validator_of

HEAD_WITHIN_S = 5.0

__all__ = ["Answer", "Sources", "range_header", "sane_size", "size_of", "validator_of"]


class Sources:
    """Every source that a run may ask, with the secrets that it may show to them. Safe to use from any thread."""

    def __init__(
        self, rules: Sequence[SecretRule], secrets: Mapping[str, str], *, is_offline: bool = False
    ) -> None:
        self._is_offline = is_offline
        self.idle: Optional[IdleConnections] = None
        """Where open connections wait for the next request; set by who closes them at the end, else none are kept."""
        self._rules = list(rules)
        self._shown = {rule.name for rule in rules if not rule.is_default}
        """Names of those that go along with every request to their hosts."""
        self._refused_without: Set[str] = set()
        self._own = OwnHeaders(secrets)
        self._chosen: Dict[str, Optional[Chosen]] = {}
        self._choosing = threading.Lock()
        self._documents = Documents(self._open_document)
        self._values = {rule.name: secrets[rule.name] for rule in rules if secrets.get(rule.name)}

    @property
    def refused_without(self) -> Tuple[str, ...]:
        """Names of the default secrets for want of which somebody was refused."""
        return tuple(sorted(self._refused_without))

    @property
    def secret_values(self) -> List[str]:
        """What must never be written anywhere."""
        return [*self._values.values(), *self._own.logins, *signed.SIGNED.hidden.values()]

    def add(self, item: Download, *urls: str) -> None:
        """Take what *item* shows to its own host: before its URLs, or *urls* that stand for it, are asked."""
        self._own.add(item, *urls)

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
        self._refuse_offline(url)
        address = addresses.address_of(url)
        kind = addresses.kind_for(url)
        at_hand = kind.at_hand(url, address)
        if at_hand is not None:
            return at_hand
        deadline = time.monotonic() + within_s
        span = (0, HEAD_BYTES)
        response, answer = self.open(url, span=span, deadline=deadline, connect_s=connect_s, stop=stop)
        try:
            head = response.read(HEAD_BYTES, HEAD_WITHIN_S, stop)
        finally:
            if self.idle is None:
                response.close()
            else:
                self.idle.keep(response)
        name = answer.name or ""
        content_type, secrets = response.headers.get("Content-Type"), self.secret_values
        try:
            verify.refuse_page(head, name, content_type, secrets, url=url, token=answer.token)
        except Failure as failure:
            raise self._advised(failure, answer.location, answer.token) from None
        fetch = self.fetcher(deadline)
        of = answer.chosen.url if answer.chosen else url
        sha256 = answer.sha256 or kind.sha256_listed(of, answer.name, answer.size_bytes, fetch)
        return replace(answer, head=head, sha256=sha256)

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
            Failure: as `ask`; `offline`, when nobody may be asked.
        """
        self._refuse_offline(url)
        chosen = self._choice(url, deadline)
        address = chosen.url if chosen else addresses.address_of(url)
        began = time.monotonic()
        response, hops, headers, token = self._followed(
            url,
            address,
            span,
            also=chosen.headers if chosen else {},
            deadline=deadline,
            connect_s=connect_s,
            stop=stop,
            on_socket=on_socket,
        )
        name, why_no_name = _usable_name(url, address, response)
        name = chosen.name if chosen and chosen.name else name
        try:
            self.check(response, url=url, name=name, token=token, deadline=deadline)
            size_bytes = size_of(response)
        except BaseException:
            response.close()
            raise
        answer = Answer(
            url=url,
            location=response.url,
            headers=cookies.added(headers, response.url, hops),
            size_bytes=size_bytes,
            sha256=_told_sha256(hops, response) or (chosen.sha256 if chosen else None),
            validator=validator_of(response.headers),
            has_ranges=response.status == 206 and not response.is_inflated,
            name=name,
            why_no_name=why_no_name,
            token=token,
            first_byte_s=time.monotonic() - began,
            chosen=chosen,
        )
        return response, answer

    def _refuse_offline(self, url: str) -> None:
        if self._is_offline and not url.startswith("file:"):
            raise Failure("offline", "it is not on this disk, and `--offline` asks nobody for it")

    def _choice(self, url: str, deadline: float) -> Optional[Chosen]:
        """What a moving *url* stands for: the same throughout a run. Raises as `WebServer.choose`."""
        if url not in self._chosen:
            found = addresses.kind_for(url).choose(url, self.fetcher(deadline))
            with self._choosing:
                self._chosen.setdefault(url, found)
        return self._chosen[url]

    def _followed(
        self,
        url: str,
        address: str,
        span: Optional[Tuple[int, Optional[int]]],
        *,
        also: Mapping[str, str] = {},  # it is only read
        deadline: float,
        connect_s: float,
        stop: Stop,
        on_socket: Callable[[socket.socket], None],
    ) -> "Tuple[request.Response, List[request.Hop], Dict[str, str], Optional[str]]":
        """The answer, the hops before it, and the credentials that went along; a token that is held back, if one must."""
        own = self._own.of(url)
        sent: Tuple[Dict[str, str], Optional[str]] = ({}, None)

        def headers_for(at: str, before: List[request.Hop]) -> Dict[str, str]:
            nonlocal sent
            sent = self._credentials(address, at, before, own)
            mine = also if origin_of(at) == origin_of(address) else {}
            sent = {**mine, **sent[0]}, sent[1]
            return dict(range_header(span), **sent[0])

        for is_last in (False, True):
            response, hops = request.follow(
                address,
                headers_for,
                deadline=deadline,
                connect_s=connect_s,
                stop=stop,
                on_socket=on_socket,
                idle=self.idle,
            )
            if is_last or sent[1] is not None or not self._may_show_more(url, address, response):
                break
            response.close()
        return (response, hops, *sent)

    def check(
        self,
        response: request.Response,
        *,
        url: str,
        name: Optional[str],
        token: Optional[str],
        deadline: float,
    ) -> None:
        """Raise what an answer that brings no bytes of the file of that *name* means; have one that is compressed read as it was."""
        status = response.status
        if status == 200 or status == 206 or (status == 416 and size_of(response) == 0):
            _undo_coding(response, name or "")
            if _is_login(url, response.url):
                refused = errors.Refused(401, {}, url, token=token)
                raise self._advised(errors.refusal(refused), url, token)
            return
        refused = errors.refused_by(response, secrets=self.secret_values, token=token)
        kind = addresses.kind_that_answered(url, response.headers)
        raise self._advised(kind.refusal(refused, url, self.fetcher(deadline)), response.url, token)

    def _advised(self, failure: Failure, at: str, token: Optional[str]) -> Failure:
        """*failure* with what would bring a token to the URL *at*, which refused; none where *token* was sent."""
        if failure.class_ not in ("unauthorized", "gated") or token:
            return failure
        declared = [rule.name for rule in self._rules if _names(rule.hosts, at)]
        if declared and urlsplit(at).scheme != "https":
            failure.advise("token_needs_https")
        elif failure.class_ == "gated":
            return failure
        elif declared and declared[0] not in self._values:
            failure.advise("token_unset", token=declared[0])
        return failure

    def fetcher(self, deadline: float) -> Fetch:
        """Gets small documents, each with the token of its host, until *deadline* on the monotonic clock."""
        return self._documents.until(deadline)

    def _credentials(
        self, address: str, at: str, hops: List[request.Hop], own: Shown = NOTHING_SHOWN
    ) -> "Tuple[Dict[str, str], Optional[str]]":
        """Headers for *at*, the next URL on the way from *address*, and the name of the secret in them."""
        origin = origin_of(address)
        if origin_of(at) != origin or any(origin_of(hop.url) != origin for hop in hops):
            return {}, None
        headers, token = self._authorization(address, origin)
        if not own.headers or origin.scheme != "https":
            return headers, token
        if any(name.lower() == "authorization" for name in own.headers):
            headers = {}
        return {**headers, **own.headers}, own.secret

    def _may_show_more(self, url: str, address: str, response: request.Response) -> bool:
        """Was *url* refused for want of a token that is held back, and is there one to show?"""
        origin = origin_of(address)
        refused = errors.Refused(response.status, response.headers, response.url)
        wants_one = response.status in (401, 403) and not refused.wants_a_wait
        kind = addresses.kind_for(url)
        if response.status == 404 and kind.hides_what_is_private:
            wants_one = True
        if refused.wants_a_wait and kind.serves_more_to_tokens:
            wants_one = True
        is_login = _is_login(url, response.url)
        if not (is_login or (wants_one and origin_of(response.url) == origin)):
            return False
        rule = self._rule_of(address, origin)
        if rule is None or not rule.is_default or urlsplit(address).username is not None:
            return False
        self._refused_without.add(rule.name)
        if rule.name not in self._values:
            return False
        self._shown.add(rule.name)
        return True

    def _rule_of(self, address: str, origin: Origin) -> Optional[SecretRule]:
        """The rule whose secret *address* may see: one that is set, or that may be asked for."""
        mine = (rule for rule in self._rules if rule.name in self._values or rule.is_default)
        fitting = (rule for rule in mine if _names(rule.hosts, address))
        return next(fitting, None) if origin.scheme == "https" else None

    def _authorization(self, address: str, origin: Origin) -> "Tuple[Dict[str, str], Optional[str]]":
        parts = urlsplit(address)
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}, None
        rule = self._rule_of(address, origin)
        if rule is None or rule.name not in self._shown or rule.name not in self._values:
            return {}, None
        return {"Authorization": f"Bearer {self._values[rule.name]}"}, rule.name

    def _open_document(self, url: str, deadline: float) -> "Tuple[request.Response, Optional[str]]":
        """Ask for a small document, with the token of its host where it is not given without. Raises Failure."""
        response, _, _, token = self._followed(
            url, url, None, deadline=deadline, connect_s=CONNECT_S, stop=lambda: False, on_socket=_not_kept
        )
        try:
            _undo_coding(response, "")
        except Failure:
            response.close()
            raise
        return response, token


def _not_kept(opened: socket.socket) -> None:
    """Nobody wants to end it early."""


def _undo_coding(response: request.Response, name: str) -> None:
    """Have a body that was compressed on the way read as the file of that *name*, which it was before.

    Raises:
        Failure: `upstream_down`, where that is not known how.
    """
    of_url = urlsplit(response.url).path.rpartition("/")[2]
    coding = inflate.coding_of(response.headers.get("Content-Encoding"), name, of_url)
    if coding is None:
        return
    if not inflate.is_readable(coding):
        host = urlsplit(response.url).hostname
        what = f"{host} compresses the file on the way, though asked not to, as {fields.brief(coding)}"
        raise Failure("upstream_down", what, case="coding", retriable=False)
    response.inflate(coding)


def _told_sha256(hops: List[request.Hop], response: request.Response) -> Optional[str]:
    """The file's hash, as anybody on the way to it tells."""
    for url, headers, _ in [*hops, request.Hop(response.url, response.headers)]:
        told = addresses.kind_that_answered(url, headers).sha256_told(url, headers)
        if told:
            return told
    return None


def _usable_name(url: str, address: str, response: request.Response) -> Tuple[Optional[str], str]:
    """The name, and why there is none."""
    try:
        return addresses.kind_for(url).name(address, response.headers.get("Content-Disposition")), ""
    except Failure as failure:
        return None, failure.message


def _names(hosts: Sequence[str], url: str) -> bool:
    """Whether *hosts* of a secret's rule has the host of *url*, alone or with the port."""
    origin = origin_of(url)
    return origin.host in hosts or f"{origin.host}:{origin.port}" in hosts


def _is_login(url: str, location: str) -> bool:
    path = urlsplit(location).path.rstrip("/").lower()
    return location != url and path.rpartition("/")[2] in ("login", "signin", "sign-in", "sign_in")
