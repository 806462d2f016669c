"""The application: every route behind `Access`, and the process that serves it."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache

import uvicorn
from provision_agent.contract.events import JsonObject
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import ProvisionError
from ..descriptors import SpareFiles, room_here
from ..store.imported import copy_into
from ..store.store import Store
from ..store.writer import FencedError
from . import answers, web_page
from .access import Access, Key
from .api import ENDPOINTS
from .connections import MAX_HEAD_BYTES, Connections, protocol_for
from .endpoints import Context
from .loop_watch import LoopWatch
from .metrics import CONTENT_TYPE, exposition
from .openapi import document
from .pool import Pool
from .rules import Rules
from .schemas import Health
from .sessions import LOOPBACK, Sessions

SESSIONS_FILE = "sessions.json"
CLOSE_WITHIN_S = 5
SWITCH_S = 0.0005
"""So long a thread that reads events keeps the interpreter from the event loop; Python's own 5 ms add up where runs flood."""
MOST_WAITING = 1024
"""So many connections wait in the kernel."""
MOST_AT_ONCE = 128
"""So many connections are accepted at once, before their number is looked at."""


@dataclass(frozen=True)
class Door:
    """Who may come in, and how."""

    token: str = field(repr=False)
    hosts: tuple[str, ...] = LOOPBACK
    origins: tuple[str, ...] = ()


def application(
    rules: Rules, door: Door, sessions: Sessions, closing: asyncio.Event, store: Store | None = None
) -> Starlette:
    """The server's routes; its runs are taken up when it starts and left when it ends.

    Args:
        rules: How it treats its runs.
        door: Who may ask.
        sessions: Who is logged in to the page.
        closing: Set when the server ends, so that streams end before it.
        store: What it keeps them in; None: as *rules* say.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        pool = Pool(rules, store or await Store.open(rules.state_dir, rules.database))
        pool.store.leases.dead_after_s = rules.dead_after_s
        await pool.open()
        app.state.context = Context(pool, closing)
        app.state.loop_watch = watch = LoopWatch()
        beside = (asyncio.create_task(_end_reading(pool, closing)), asyncio.create_task(watch.run()))
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await pool.close()

    key = Key(door.token, sessions)
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
            SQLAlchemyError: answers.on_database_error,
            FencedError: answers.on_database_error,
            Exception: answers.on_bug,
        },
    )
    app.state.key = key
    return app


async def _end_reading(pool: Pool, closing: asyncio.Event) -> None:
    await closing.wait()
    await pool.end_reading()


async def healthz(request: Request) -> Response:
    """The server answers; 503 while it cannot write down what it does."""
    context: Context = request.app.state.context
    is_well = context.pool.trouble is None
    return answers.Json(Health()) if is_well else answers.Json(Health("trouble"), 503)


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
        loop=request.app.state.loop_watch,
        figures=pool.figures,
        instances=Counter(health.state for health in pool.instances.all()),
    )
    return Response(body, media_type=CONTENT_TYPE)


async def openapi(request: Request) -> Response:
    """The API's description."""
    return answers.Json(await asyncio.to_thread(_description))


@cache
def _description() -> JsonObject:
    return document(ENDPOINTS)


OWN_ROUTES = (Route("/healthz", healthz), Route("/metrics", metrics), Route("/openapi.json", openapi))


class _Server(uvicorn.Server):
    """Ends on SIGINT and SIGTERM as a service should: streams first (they wait for their runs), then with status 0."""

    def __init__(
        self,
        config: uvicorn.Config,
        closing: asyncio.Event,
        on_open: Callable[[], None],
        connections: Connections,
    ) -> None:
        super().__init__(config)
        self._connections = connections
        self._closing = closing
        self._on_open = on_open
        self._spare = SpareFiles()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(MOST_WAITING)  # the kernel keeps more than are accepted at once
        gc.freeze()  # what was made so far stays: nobody need look through it for cycles again and again
        self._on_open()  # the socket accepts

    async def on_tick(self, counter: int) -> bool:
        if counter % 50 == 0:
            self._spare.refill()
        return await super().on_tick(counter)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._spare.release()
            self._connections.drop_waiting()  # asyncio accepts again in a second
        loop.default_exception_handler(context)

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


async def serve(
    rules: Rules,
    door: Door,
    listener: socket.socket,
    on_open: Callable[[str], None],
    *,
    on_import: Callable[[int], None] | None = None,
) -> None:
    """Serve on *listener* until SIGINT or SIGTERM.

    Args:
        rules: How this server treats its runs.
        door: Who may ask.
        listener: Where they ask; it is bound.
        on_open: Is told the page's own host name when requests are answered.
        on_import: Before that, the runs of the state directory come into the database; is told how many. None: they do not.

    Raises:
        UsageError: another server has the state directory, or the database is not to be used.
    """
    sys.setswitchinterval(SWITCH_S)
    closing = asyncio.Event()
    store = await Store.open(rules.state_dir, rules.database)  # what is wrong with it is raised here
    if on_import is not None:
        on_import(await asyncio.to_thread(copy_into, store.database, rules.state_dir))
    sessions = await asyncio.to_thread(Sessions, rules.state_dir / SESSIONS_FILE)
    room = room_here()
    connections = Connections(room.connections)
    config = uvicorn.Config(
        application(rules, door, sessions, closing, store),
        http=protocol_for(connections),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        backlog=min(room.connections, MOST_AT_ONCE),
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=CLOSE_WITHIN_S,
        timeout_keep_alive=30,
        ws="none",
    )
    server = _Server(config, closing, lambda: on_open(sessions.page_host), connections)
    await server.serve(sockets=[listener])
