"""Answers that every route gives alike: JSON, and errors as ``{"error": {"class", "message", "hint"}}``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar, cast

import pydantic
import structlog
from pydantic import TypeAdapter
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ...errors import ProfileError, ProvisionError
from ..store.database import is_passing
from ..store.writer import FencedError
from .schemas import Error, Trouble, WithProblems

STATUS = {
    "conflict": 409, "busy": 503, "local": 507, "unreachable": 424, "auth-refused": 424, "host-key": 424,
}  # fmt: skip
"""By verdict, or by the class that an instance answers with; every other error that is raised on purpose is the request's: 422."""
_CLASSES = {
    400: "malformed",
    404: "not_found",
    405: "wrong_method",
    408: "too_slow",
    413: "too_large",
    415: "not_json",
}
_HINTS = {
    404: "`GET /api/runs` lists the runs",
    405: "`/openapi.json` says what can be asked",
    408: "send the request in one piece",
}

T = TypeVar("T")
log = structlog.get_logger()


class BusyError(ProvisionError):
    """The server takes nothing more now."""

    verdict = "busy"


class InvalidBodyError(Exception):
    """A body is JSON, and not of the shape that the OpenAPI document says."""

    def __init__(self, problem: pydantic.ValidationError) -> None:
        super().__init__(str(problem))
        self.problems = [
            _said(item)
            for item in problem.errors(include_url=False, include_input=False, include_context=False)
        ]


_ADAPTERS: dict[type, object] = {}


def adapter_of(kind: type[T]) -> TypeAdapter[T]:
    """What reads, writes and describes the dataclass *kind*."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return cast("TypeAdapter[T]", _ADAPTERS[kind])


def read_body(kind: type[T], value: object) -> T:
    """*value*, which a client sent, as the dataclass *kind*. Raises InvalidBodyError."""
    try:
        return adapter_of(kind).validate_python(value)
    except pydantic.ValidationError as problem:
        raise InvalidBodyError(problem) from None


class Json(Response):
    """A JSON answer: a dataclass of `schemas`, or JSON values."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        data = adapter_of(type(content)).dump_python(content, mode="json", by_alias=True)
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def error(
    status: int, kind: str, message: str, hint: str = "", *, problems: Sequence[str] | None = None
) -> Json:
    """An error answer.

    Args:
        status: The HTTP status.
        kind: The class of the error, for programs.
        message: What happened and why.
        hint: What to do next; empty where nobody knows.
        problems: Every problem of a profile or a body; None for any other error.
    """
    if problems is None:
        return Json(Error(Trouble(kind, message, hint)), status)
    return Json(Error(WithProblems(kind, message, hint, list(problems))), status)


async def on_http_error(request: Request, problem: Exception) -> Response:
    """Trouble with the request itself."""
    assert isinstance(problem, HTTPException)
    code = problem.status_code
    answer = error(code, _CLASSES.get(code, "http"), str(problem.detail), _HINTS.get(code, ""))
    answer.headers.update(problem.headers or {})
    return answer


async def on_provision_error(request: Request, problem: Exception) -> Response:
    """Trouble that is raised on purpose."""
    assert isinstance(problem, ProvisionError)
    problems = problem.problems if isinstance(problem, ProfileError) else None
    return error(
        STATUS.get(problem.verdict, STATUS.get(problem.cause, 422)),
        problem.cause,
        str(problem),
        problem.hint,
        problems=problems,
    )


async def on_database_error(request: Request, problem: Exception) -> Response:
    """The database is away, or says no; the client comes again, here or elsewhere."""
    if not (isinstance(problem, FencedError) or is_passing(problem)):
        return await on_bug(request, problem)
    return error(
        503, "busy", "the server's database does not answer now", "send the request again in a moment"
    )


async def on_invalid_body(request: Request, problem: Exception) -> Response:
    """A body that is not of the shape that the OpenAPI document says."""
    assert isinstance(problem, InvalidBodyError)
    return error(
        422,
        "invalid",
        "; ".join(problem.problems),
        "`/openapi.json` says what can be sent",
        problems=problem.problems,
    )


async def on_bug(request: Request, problem: Exception) -> Response:
    """Anything else is this server's fault."""
    log.exception("request_failed", method=request.method, path=request.url.path, exc_info=problem)
    return error(
        500, "bug", "this is a bug in provision", "the server's log has the traceback: please report it"
    )


_WORDS = {
    "Input should be a dictionary or an instance of": "Input should be a valid dictionary or instance of",
    "Unexpected keyword argument": "Extra inputs are not permitted",
    "Value error, ": "",
}
"""Instead of words that are about Python."""


def _said(item: ErrorDetails) -> str:
    where = ".".join(str(part) for part in item["loc"][:4])
    message = item["msg"]
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return f"`{where}`: {message}" if where else message
