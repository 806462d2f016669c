"""Who may ask: the bearer token or the page's cookie, the right `Host`, no foreign `Origin`, bodies of bounded size.

Stands before every route, so that a route that is added later is guarded, too.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import error
from .sessions import LOOPBACK, Sessions

COOKIE = "provision_session"
MAX_BODY_BYTES = 2 << 20
BODY_WITHIN_S = 30.0
OPEN_PATHS = frozenset(("/healthz",))
LOGIN_PATHS = frozenset(("/", "/login"))
"""These look at the token themselves: a browser that has none gets a page to enter it."""
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Key:
    """The token, compared in constant time, and the sessions of browsers that had it."""

    def __init__(self, token: str, sessions: Sessions) -> None:
        self._token = token.encode()
        self.sessions = sessions

    def opens(self, token: str) -> bool:
        """Whether *token* is the one."""
        return hmac.compare_digest(token.encode(errors="surrogateescape"), self._token)

    def admits(self, headers: Headers) -> str | None:
        """How a request with *headers* may pass: ``bearer``, ``cookie`` or None."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.opens(token.strip()):
            return "bearer"
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            found = None
        host = host_of(headers)
        is_ours = found is not None and host not in LOOPBACK and self.sessions.admits(found.value, host)
        return "cookie" if is_ours else None


class Access:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: Key,
        hosts: Iterable[str],
        origins: Iterable[str],
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._app = app
        self._key = key
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        await self._app(scope, _bounded(receive, self._max_body_bytes), _with_headers(send))

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host = host_of(headers)
        if host not in self._hosts and not self._key.sessions.knows(host):
            return error(
                421,
                "wrong_host",
                "this server does not answer for that `Host`",
                "start it with `--allow-host NAME`",
            )
        origin = headers.get("origin")
        own = headers.get("host")
        if origin not in (None, f"http://{own}", f"https://{own}", *self._origins):
            return error(
                403,
                "wrong_origin",
                "pages of other origins may not ask",
                "start it with `--cors-origin ORIGIN`",
            )
        if scope["path"] in OPEN_PATHS | LOGIN_PATHS:
            return self._too_large(headers)
        is_preflight = scope["method"] == "OPTIONS" and origin in self._origins
        way_in = self._key.admits(headers)
        if way_in is None and not is_preflight:
            refusal = error(
                401, "unauthorized", "the token is missing or wrong", "send `Authorization: Bearer TOKEN`"
            )
            refusal.headers["www-authenticate"] = "Bearer"
            return refusal
        if way_in == "cookie" and scope["method"] not in _SAFE and origin is None:
            return error(
                403, "wrong_origin", "a change by cookie needs an `Origin`", "send the bearer token instead"
            )
        return self._too_large(headers)

    def _too_large(self, headers: Headers) -> ASGIApp | None:
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length[:18]) > self._max_body_bytes:
            return error(413, "too_large", f"a body may have {self._max_body_bytes} bytes", "send less")
        return None


def host_of(headers: Headers) -> str:
    """The host of the `Host` header, without port; an IPv6 address keeps its brackets."""
    host = headers.get("host", "")
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _bounded(receive: Receive, limit_bytes: int) -> Receive:
    """*receive*, for a body of *limit_bytes* at most that is there within `BODY_WITHIN_S`."""
    seen = 0
    is_whole = False
    due = asyncio.get_running_loop().time() + BODY_WITHIN_S

    async def bounded() -> Message:
        nonlocal seen, is_whole
        try:
            async with asyncio.timeout_at(None if is_whole else due):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {BODY_WITHIN_S:.0f} s") from None
        seen += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if seen > limit_bytes:
            raise HTTPException(413, f"a body may have {limit_bytes} bytes")
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sending
