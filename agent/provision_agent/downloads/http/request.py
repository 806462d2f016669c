"""One request, and the way through redirects. Headers are the caller's: so is who may see a token."""

from __future__ import annotations

import functools
import http.client
import socket
import time
from typing import Callable, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import quote, urlsplit, urlunsplit

from ...contract.failures import Failure
from . import cookies, fields, transport
from .idle import IdleConnections
from .response import Connection, Headers, RawResponse, Response
from .transport import Origin, Stop, origin_of

MAX_REDIRECTS = 10
REDIRECT_BODY_BYTES, REDIRECT_BODY_S = 4096, 0.5
REDIRECTS = (301, 302, 303, 307, 308)
USER_AGENT = "provision/1 (+model downloads)"
"""Not the library's: some hosts turn `Python-urllib` away."""

__all__ = ["Connection", "Headers", "Hop", "Response", "follow", "request"]


def request(
    url: str,
    headers: Mapping[str, str],
    *,
    connect_s: float,
    answer_s: float,
    stop: Stop = lambda: False,
    on_socket: Callable[[socket.socket], None] = lambda opened: None,
    reuse: Optional[Connection] = None,
) -> Response:
    """GET *url*, one hop: a redirect is an answer like any other.

    Args:
        connect_s: For the connection with tunnel and TLS.
        answer_s: For the head of the answer, once connected.
        stop: Asked while waiting; True gives up.
        on_socket: Is given the socket as soon as there is one.
        reuse: An idle connection; taken if it leads to the same origin and still lives, else closed.

    Raises:
        Failure: `unreachable`, `tls` or `upstream_down`.
    """
    origin = origin_of(url)
    if reuse is not None and reuse.origin == origin:
        try:
            on_socket(reuse.socket)
            return _exchange(url, headers, reuse, transport.Patience(answer_s, stop))
        except (OSError, http.client.HTTPException):
            pass  # a server may close an idle connection at any moment
    if reuse is not None:
        reuse.close()
    connection = Connection(
        origin, transport.connect(origin, timeout_s=connect_s, stop=stop, on_socket=on_socket)
    )
    try:
        return _exchange(url, headers, connection, transport.Patience(answer_s, stop))
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise _answer_failure(error, origin, answer_s) from None
    except BaseException:
        connection.close()
        raise


class Hop(NamedTuple):
    """One redirect on the way: who sent it and with which headers."""

    url: str
    headers: Headers
    set_cookies: Tuple[str, ...] = ()


def follow(
    url: str,
    headers_for: Callable[[str, List[Hop]], Mapping[str, str]],
    *,
    deadline: float,
    connect_s: float,
    stop: Stop = lambda: False,
    on_socket: Callable[[socket.socket], None] = lambda opened: None,
    idle: Optional[IdleConnections] = None,
) -> Tuple[Response, List[Hop]]:
    """GET *url* and go where redirects lead, at most `MAX_REDIRECTS` times.

    Args:
        headers_for: The headers for the next URL, given the hops that led there; cookies of the chain are added.
        deadline: On the monotonic clock, for all hops together.
        idle: Where open connections are taken from, and those of redirects are kept.

    Returns:
        The first answer that is no redirect, and the hops before it.

    Raises:
        Failure: as `request`; `upstream_down` for a redirect that leads nowhere.
    """
    hops: List[Hop] = []
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Failure("unreachable", f"no answer from {origin_of(url).host} in time")
        reuse = idle.take(origin_of(url)) if idle is not None else None
        response = request(
            url,
            cookies.added(headers_for(url, hops), url, hops),
            connect_s=min(connect_s, left_s),
            answer_s=left_s
            if reuse is None
            else left_s / 2,  # it may have gone silent: then a new one is tried
            stop=stop,
            on_socket=on_socket,
            reuse=reuse,
        )
        target = response.headers.get("Location")
        if response.status not in REDIRECTS or not target:
            return response, hops
        try:
            onward = fields.target(url, target)
        except Failure:
            response.close()
            raise
        _leave(response, idle)
        if len(hops) == MAX_REDIRECTS:
            raise Failure(
                "upstream_down", f"more than {MAX_REDIRECTS} redirects, the last to {origin_of(url).host}"
            )
        hops.append(Hop(url, response.headers, response.set_cookies))
        url = onward


def _leave(response: Response, idle: Optional[IdleConnections]) -> None:
    """A redirect has been read; what it says beside where to go is small."""
    if idle is None:
        return response.close()
    if 0 < (response.remaining or 0) <= REDIRECT_BODY_BYTES:
        response.read(REDIRECT_BODY_BYTES, REDIRECT_BODY_S)
    return idle.keep(response)


def _exchange(
    url: str, headers: Mapping[str, str], connection: Connection, patience: transport.Patience
) -> Response:
    client = connection.client
    client.response_class = functools.partial(RawResponse, patience)  # type: ignore[assignment]
    connection.socket.settimeout(patience.left_s)
    sent = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **headers}
    client.request("GET", _target(url, connection.origin, sent), headers=sent)
    raw = client.getresponse()
    assert isinstance(raw, RawResponse)
    return Response(url, connection, raw)


def _target(url: str, origin: Origin, headers: "dict[str, str]") -> str:
    """What the request line names: the path, or the whole URL when a proxy is spoken to without a tunnel."""
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    target = path + (f"?{query}" if query else "")
    proxy = transport.proxy_for(origin) if origin.scheme == "http" else None
    if proxy is None:
        return target
    authorization = transport.proxy_authorization(proxy)
    if authorization:
        headers["Proxy-Authorization"] = authorization
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))


def _answer_failure(error: Exception, origin: Origin, answer_s: float) -> Failure:
    if isinstance(error, socket.timeout):
        return Failure(
            "stalled", f"{origin.host} took the request and did not answer within {answer_s:.0f} s"
        )
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return Failure("upstream_down", f"{origin.host} answered what is no HTTP: {type(error).__name__}")
    return transport.connection_failure(error, origin, answer_s)
