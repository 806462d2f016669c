"""What all routes stand on: their description, of which the OpenAPI document is made, and how each finds its run and reads what it is asked."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

from provision_agent.contract.events import JsonObject
from provision_agent.contract.version import RUN_ID_PATTERN
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..store.rows import Row
from .answers import read_body
from .pool import Pool
from .watch import Watch

LARGEST = 1 << 53

T = TypeVar("T")


@dataclass
class Context:
    """What the routes work on."""

    pool: Pool
    closing: asyncio.Event
    """Set when the server ends: streams end, and clients come back to the next one."""
    clients: int = 0
    """How many follow a stream right now."""

    async def is_over(self, run: str) -> bool:
        """Whether nothing more comes of *run* from this process."""
        if self.closing.is_set():
            return True
        if self.pool.going(run) is not None:
            return False
        row = await self.pool.store.find(run, with_plan=False)
        return row is None or self.pool.is_over(row)

    def count(self, by: int) -> None:
        """A client came (1) or went (-1)."""
        self.clients += by


class Parameter(NamedTuple):
    """A query parameter or header."""

    name: str
    schema: JsonObject
    text: str
    place: str = "query"


class Endpoint(NamedTuple):
    """One route."""

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    summary: str
    answers: Mapping[int, str]
    answer: type | None = None
    """The dataclass of the JSON that it answers with."""
    body: type | None = None
    """The dataclass of the JSON that it takes."""
    parameters: tuple[Parameter, ...] = ()
    media_type: str = "application/json"


def context_of(request: Request) -> Context:
    """What the routes of this application work on."""
    return cast(Context, request.app.state.context)


async def found_of(request: Request) -> tuple[Row, Watch | None]:
    """The run that the path names, and its watch if it has one here. Raises HTTPException: there is no such run."""
    run = request.path_params["run"]
    if re.fullmatch(RUN_ID_PATTERN, run) and (found := await context_of(request).pool.find(run)) is not None:
        return found
    raise HTTPException(404, "there is no such run")


async def body_of(request: Request, kind: type[T]) -> T:
    """The JSON of the body as the dataclass *kind*. Raises HTTPException, InvalidBodyError: it is not."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the body must be `application/json`")
    return await asyncio.to_thread(_read, kind, await request.body())


def _read(kind: type[T], raw: bytes) -> T:
    try:
        value = json.loads(raw, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None
    return read_body(kind, value)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def integer_of(request: Request, name: str, default: int, *, least: int = 0, most: int = LARGEST) -> int:
    """The query parameter *name*; *default* where it is left out. Raises HTTPException: it is none from *least* to *most*."""
    text = request.query_params.get(name)
    if text is None:
        return default
    value = whole_of(text, name)
    if not least <= value <= most:
        raise unfit(f"`{name}` is from {least} to {most}")
    return value


def whole_of(text: str, name: str) -> int:
    """*text*, which *name* has, as a number. Raises HTTPException: it is none."""
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise unfit(f"`{name}` is a whole number")
    return int(text)


def unfit(message: str) -> HTTPException:
    """The answer to a request that means nothing."""
    return HTTPException(422, message)
