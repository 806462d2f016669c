"""The page in a browser: its files, and the way in by the printed link or the form."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from .access import COOKIE, HEADERS, Key
from .page_words import page_words

FOLDER = Path(__file__).with_name("page")
ASSETS = {"app.js": "text/javascript", "style.css": "text/css"}
COOKIE_DAYS = 30
FORM_WITHIN_S = 30.0


async def show(request: Request) -> Response:
    """The page; the form for whoever has no cookie; with the token in the query, the cookie."""
    key, token = _key(request), request.query_params.get("token")
    if token is not None and key.opens(token):
        return _logged_in(key)
    if token is None and key.admits(request.headers) is not None:
        return FileResponse(FOLDER / "index.html")
    return _form()


async def log_in(request: Request) -> Response:
    """What was typed into the form."""
    try:
        async with asyncio.timeout(FORM_WITHIN_S):
            body = await request.body()
    except TimeoutError:
        raise HTTPException(408, "the form did not arrive") from None
    token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
    return _logged_in(_key(request)) if _key(request).opens(token.strip()) else _form()


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
    return HTMLResponse(text, 401, headers={"content-security-policy": policy})


def _logged_in(key: Key) -> Response:
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        COOKIE, key.cookie, max_age=COOKIE_DAYS * 86400, httponly=True, samesite="strict", path="/"
    )
    return answer
