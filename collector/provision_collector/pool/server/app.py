"""The application: every route behind `Access`, and the process that serves it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import ProvisionError
from ..store.store import Store
from . import answers, web_page
from .access import Access, Key
from .api import ENDPOINTS, Context
from .metrics import CONTENT_TYPE, exposition
from .openapi import document
from .pool import Pool
from .rules import Rules
from .schemas import Health

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
CLOSE_WITHIN_S = 5


@dataclass(frozen=True)
class Door:
    """Who may come in, and how."""

    token: str = field(repr=False)
    hosts: tuple[str, ...] = LOOPBACK
    origins: tuple[str, ...] = ()


def application(
    rules: Rules, door: Door, closing: asyncio.Event, on_open: Callable[[], None] | None = None
) -> Starlette:
    """The server's routes; its runs are taken up when it starts and left when it ends.

    Args:
        rules: How it treats its runs.
        door: Who may ask.
        closing: Set when the server ends, so that streams end before it.
        on_open: Called when the runs are taken up.
    """

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

    key = Key(door.token)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(door.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
    )
    access = Middleware(Access, key=key, hosts=door.hosts, origins=door.origins)
    app = Starlette(
        routes=[
            *(Route(e.path, e.handler, methods=[e.method]) for e in ENDPOINTS),
            *OWN_ROUTES,
            *web_page.ROUTES,
        ],
        lifespan=lifespan,
        middleware=[cors, access] if door.origins else [access],
        exception_handlers={
            HTTPException: answers.on_http_error,
            ProvisionError: answers.on_provision_error,
            answers.InvalidBodyError: answers.on_invalid_body,
            Exception: answers.on_bug,
        },
    )
    app.state.key = key
    app.state.openapi = document(ENDPOINTS)
    return app


async def healthz(request: Request) -> Response:
    """The server answers."""
    return answers.Json(Health())


async def metrics(request: Request) -> Response:
    """Numbers for Prometheus."""
    context: Context = request.app.state.context
    pool = context.pool
    body = await asyncio.to_thread(
        exposition,
        going=[watch.view for watch in pool.all_going()],
        ended=dict(pool.runs_ended),
        events=dict(pool.events_told),
        clients=context.clients,
    )
    return Response(body, media_type=CONTENT_TYPE)


async def openapi(request: Request) -> Response:
    """The API's description."""
    return answers.Json(request.app.state.openapi)


OWN_ROUTES = (Route("/healthz", healthz), Route("/metrics", metrics), Route("/openapi.json", openapi))


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
