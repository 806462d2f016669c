"""The page in a browser: its files, and the way in by the printed link or the form.

Whoever shows the token at a name that every program on this machine has is sent to the page's own name with a ticket.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from .access import COOKIE, HEADERS, Key, host_of
from .page_words import page_words
from .sessions import LOOPBACK, SESSION_S

FOLDER = Path(__file__).with_name("page")
ASSETS = {
    **dict.fromkeys(("app.js", "pool.js", "shared.js"), "text/javascript"),
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}
_ARRIVED = (
    '<!doctype html><html lang="en"><title>provision</title><meta http-equiv="refresh" content="0;url=/">'
)
"""A page that goes on to the list: after a redirect from another name, a browser would not send the cookie there."""


async def show(request: Request) -> Response:
    """The page; the form for whoever is not logged in; with the token or a ticket in the query, the cookie."""
    key, token, ticket = _key(request), *map(request.query_params.get, ("token", "ticket"))
    if token is not None and key.opens(token):
        return await _let_in(request, RedirectResponse("/", status_code=303))
    if ticket is not None and host_of(request.headers) not in LOOPBACK and key.sessions.redeem(ticket):
        return await _let_in(request, HTMLResponse(_ARRIVED))
    if token is None and ticket is None and key.admits(request.headers) is not None:
        return FileResponse(FOLDER / "index.html")
    return _form()


async def log_in(request: Request) -> Response:
    """What was typed into the form."""
    body = await request.body()
    token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
    if not _key(request).opens(token.strip()):
        return _form()
    return await _let_in(request, RedirectResponse("/", status_code=303))


async def asset(request: Request) -> Response:
    """A file of the page."""
    name = request.path_params["name"]
    if name == "words.js":
        return Response(page_words(), media_type="text/javascript", headers={"cache-control": "no-cache"})
    if name not in ASSETS:
        raise HTTPException(404, "there is no such file")
    return FileResponse(FOLDER / name, media_type=ASSETS[name], headers={"cache-control": "no-cache"})


ROUTES = (
    Route("/", show),
    Route("/login", log_in, methods=["POST"]),
    Route("/page/{name}", asset),
)


def _key(request: Request) -> Key:
    return cast(Key, request.app.state.key)


def _form() -> Response:
    """The form for the token. Its style is in it: whoever has no token gets no other file."""
    text = (FOLDER / "login.html").read_text()
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = HEADERS["content-security-policy"].replace("style-src 'self'", f"style-src 'sha256-{digest}'")
    policy = policy.replace("form-action 'self'", "form-action 'self' http://*.localhost:*")  # where it leads
    return HTMLResponse(text, 401, headers={"content-security-policy": policy})


async def _let_in(request: Request, answer: Response) -> Response:
    """*answer* with a session's cookie; at a name that others share, the way to the page's own name."""
    sessions, host = _key(request).sessions, host_of(request.headers)
    if host in LOOPBACK:
        _, colon, port = request.headers.get("host", "").rpartition(":")
        name = sessions.page_host + (f":{port}" if colon and port.isdigit() else "")
        return RedirectResponse(f"{request.url.scheme}://{name}/?ticket={sessions.ticket()}", status_code=303)
    cookie = await sessions.begin(host)
    answer.set_cookie(COOKIE, cookie, max_age=int(SESSION_S), httponly=True, samesite="strict", path="/")
    return answer
