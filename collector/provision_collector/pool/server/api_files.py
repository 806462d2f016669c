"""The routes of what a run leaves on this side: its logs, those of its jobs, and its outputs."""

from __future__ import annotations

import asyncio

from provision_agent.contract.plan_jobs import job_file
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ..store.rows import Row
from . import outputs
from .answers import Json
from .endpoints import Endpoint, Parameter, context_of, found_of, integer_of, unfit
from .outputs import OutputFiles

MOST_JOB_CHARS = 256


async def get_log(request: Request) -> Response:
    """The bytes of a mirror."""
    row, _ = await found_of(request)
    follow = request.query_params.get("follow", "0")
    if follow not in ("0", "1"):
        raise unfit("`follow` is `0` or `1`")
    kind, offset = _kind(request), integer_of(request, "from", 0)
    context = context_of(request)
    log = context.pool.log_of(row, kind)
    size = await log.size_bytes()
    if (job := request.query_params.get("job")) is not None and size == 0:
        await _check_job(request, row, job)
    headers = {"x-log-size": str(size)}
    if follow == "1":
        body = log.follow(offset, is_over=lambda: context.is_over(row.run))
    else:
        headers["content-length"] = str(max(size - offset, 0))
        body = log.read(offset, size)
    return StreamingResponse(body, media_type="text/plain; charset=utf-8", headers=headers)


def _kind(request: Request) -> str:
    """Which mirror is asked for, as `Pool.log_of` calls it."""
    job, kind = request.query_params.get("job"), request.query_params.get("file")
    if job is None:
        if kind not in (None, "core", "errors"):
            raise unfit("`file` is `core` or `errors`")
        return kind or "core"
    if kind is not None or not 0 < len(job) <= MOST_JOB_CHARS:
        raise unfit("`job` is the name of a job, and stands without `file`")
    return job_file(job)


async def _check_job(request: Request, row: Row, job: str) -> None:
    """Raises HTTPException: the run is over, or has all its jobs begun, and none of them is called *job*."""
    context = context_of(request)
    if await context.is_over(row.run):
        view = await context.pool.view_of(row)
        if job not in view.run_state.items["jobs"]:
            raise HTTPException(404, f"this run has no log of a job `{job}`")


async def list_outputs(request: Request) -> Response:
    """What came home of a run."""
    row, _ = await found_of(request)
    here = context_of(request).pool.rules.outputs_of(row.run)
    return Json(await asyncio.to_thread(outputs.listed, here.folder if here is not None else None))


async def get_output(request: Request) -> Response:
    """A file that came home."""
    row, _ = await found_of(request)
    here, path = context_of(request).pool.rules.outputs_of(row.run), request.path_params["path"]
    descriptor = await asyncio.to_thread(outputs.opened, here.folder if here is not None else None, path)
    if descriptor is None:
        raise HTTPException(404, "there is no such output of this run")
    return outputs.as_download(descriptor, path)


_FILE = Parameter("file", {"type": "string", "enum": ["core", "errors"]}, "which mirror")
_FROM = Parameter("from", {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}, "from this byte on")
_FOLLOW = Parameter("follow", {"type": "string", "enum": ["0", "1"]}, "1: go on until the run ends")
_JOB = Parameter(
    "job",
    {"type": "string", "minLength": 1, "maxLength": MOST_JOB_CHARS},
    "the log of this job; without `file`",
)

FILES = (
    Endpoint(
        "GET", "/api/runs/{run}/log", get_log, "A mirror's bytes",
        {200: "the bytes", 404: "no such run or job", 422: "wrong"},
        parameters=(_FILE, _JOB, _FROM, _FOLLOW), media_type="text/plain",
    ),
    Endpoint("GET", "/api/runs/{run}/outputs", list_outputs, "What came home", {200: "the files", 404: "no such run"}, OutputFiles),
    Endpoint(
        "GET", "/api/runs/{run}/outputs/{path:path}", get_output, "A file that came home",
        {200: "the bytes", 404: "no such run or file"}, media_type="application/octet-stream",
    ),
)  # fmt: skip
