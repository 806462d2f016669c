"""The application: every route behind `Access`, and the process that serves it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

import pydantic
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from ..errors import ProvisionError
from . import answers
from .access import COOKIE, Access, Key
from .api import ENDPOINTS, Context
from .metrics import CONTENT_TYPE, exposition
from .openapi import document
from .pool import Pool, Rules
from .store import Store

PAGE = Path(__file__).with_name("page")
ASSETS = {"app.js": "text/javascript", "style.css": "text/css"}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
CLOSE_WITHIN_S = 5
COOKIE_DAYS = 30


@dataclass(frozen=True)
class Door:
    """Who may come in, and how."""

    token: str = field(repr=False)
    hosts: tuple[str, ...] = LOOPBACK
    origins: tuple[str, ...] = ()


def application(
    rules: Rules, door: Door, closing: asyncio.Event, on_open: Callable[[], None] | None = None
) -> Starlette:
    """The server's routes; its runs are taken up when it starts and left when it ends."""
    key = Key(door.token)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        pool = Pool(rules, await Store.open(rules.state_dir))
        await pool.open()
        app.state.context = Context(pool, closing)
        if on_open is not None:
            on_open()
        try:
            yield
        finally:
            await pool.close()

    described = document(ENDPOINTS)

    async def openapi(request: Request) -> Response:
        return answers.Json(described)

    async def healthz(request: Request) -> Response:
        return answers.Json({"status": "ok"})

    async def metrics(request: Request) -> Response:
        context: Context = request.app.state.context
        pool = context.pool
        body = exposition(
            going=[watch.view for watch in pool.all_going()],
            ended=await pool.store.counts(),
            events=pool.events_told,
            clients=context.clients,
        )
        return Response(body, media_type=CONTENT_TYPE)

    async def page(request: Request) -> Response:
        token = request.query_params.get("token")
        if token is not None and key.opens(token):
            return _logged_in(key)
        if token is None and key.admits(request.headers) is not None:
            return FileResponse(PAGE / "index.html")
        return FileResponse(PAGE / "login.html", status_code=401)

    async def login(request: Request) -> Response:
        token = parse_qs((await request.body()).decode("utf-8", "replace")).get("token", [""])[0]
        return (
            _logged_in(key)
            if key.opens(token.strip())
            else FileResponse(PAGE / "login.html", status_code=401)
        )

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404, "there is no such file")
        return FileResponse(PAGE / name, media_type=ASSETS[name], headers={"cache-control": "no-cache"})

    routes = [Route(e.path, e.handler, methods=[e.method]) for e in ENDPOINTS]
    routes += [
        Route("/openapi.json", openapi),
        Route("/healthz", healthz),
        Route("/metrics", metrics),
        Route("/", page),
        Route("/login", login, methods=["POST"]),
        Route("/page/{name}", asset),
    ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(door.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
    )
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            *([cors] if door.origins else []),
            Middleware(Access, key=key, hosts=door.hosts, origins=door.origins),
        ],
        exception_handlers={
            HTTPException: answers.on_http_error,
            ProvisionError: answers.on_provision_error,
            pydantic.ValidationError: answers.on_invalid,
            Exception: answers.on_bug,
        },
    )


class _Server(uvicorn.Server):
    """Ends on SIGINT and SIGTERM as a service should: streams first (they wait for their runs), then with status 0."""

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event) -> None:
        super().__init__(config)
        self._closing = closing

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, self.handle_exit, sign, None)
        try:
            yield
        finally:
            for sign in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(sign)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing.set()
        await super().shutdown(sockets)


async def serve(rules: Rules, door: Door, listener: socket.socket, on_open: Callable[[], None]) -> None:
    """Serve on *listener* until SIGINT or SIGTERM; *on_open* is called when requests are answered.

    Raises:
        UsageError: another server has the state directory.
    """
    closing = asyncio.Event()
    await (
        await Store.open(rules.state_dir)
    ).close()  # what is wrong with it is raised here, not in the lifespan's log
    config = uvicorn.Config(
        application(rules, door, closing, on_open),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=CLOSE_WITHIN_S,
        timeout_keep_alive=30,
        ws="none",
    )
    await _Server(config, closing).serve(sockets=[listener])


def _logged_in(key: Key) -> Response:
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        COOKIE, key.cookie, max_age=COOKIE_DAYS * 86400, httponly=True, samesite="strict", path="/"
    )
    return answer
