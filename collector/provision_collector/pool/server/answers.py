"""Answers that every route gives alike: JSON, and errors as ``{"error": {"class", "message", "hint"}}``."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ...errors import ProfileError, ProvisionError

STATUS = {"conflict": 409, "busy": 503, "local": 507}
"""By verdict; every other error that is raised on purpose is the request's: 422."""
_CLASSES = {400: "malformed", 404: "not_found", 405: "wrong_method", 413: "too_large", 415: "not_json"}
_HINTS = {404: "`GET /api/runs` lists the runs", 405: "`/openapi.json` says what can be asked"}

log = structlog.get_logger()


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def error(status: int, kind: str, message: str, hint: str = "", **more: Any) -> Json:
    """An error answer."""
    return Json({"error": {"class": kind, "message": message, "hint": hint, **more}}, status)


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
    more = {"problems": problem.problems} if isinstance(problem, ProfileError) else {}
    kind = getattr(problem, "cause", problem.verdict)
    return error(STATUS.get(problem.verdict, 422), kind, str(problem), problem.hint, **more)


async def on_invalid(request: Request, problem: Exception) -> Response:
    """A body that is not of the shape that the OpenAPI document says."""
    assert isinstance(problem, pydantic.ValidationError)
    problems = [
        _said(item) for item in problem.errors(include_url=False, include_input=False, include_context=False)
    ]
    return error(
        422, "invalid", "; ".join(problems), "`/openapi.json` says what can be sent", problems=problems
    )


async def on_bug(request: Request, problem: Exception) -> Response:
    """Anything else is this server's fault."""
    log.exception("request_failed", method=request.method, path=request.url.path, exc_info=problem)
    return error(
        500, "bug", "this is a bug in provision", "the server's log has the traceback: please report it"
    )


def _said(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"][:4])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"`{where}`: {message}" if where else message
