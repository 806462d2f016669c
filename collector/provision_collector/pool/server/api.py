"""The routes under ``/api``: what each takes and answers stands in `ENDPOINTS`, which the OpenAPI document is made of."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar, cast

from provision_agent.contract.events import JsonObject
from provision_agent.contract.version import RUN_ID_PATTERN
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ..scorecard import cards_of, scorecards
from ..store.rows import ENDED, STATES, Row, Summary
from ..store.store import Wanted, host_of
from . import outputs
from .answers import Json, adapter_of, read_body
from .orders import RunRequest, SecretsRequest
from .outputs import OutputFiles
from .pool import Pool
from .schemas import Begun, Hosts, Links, Listed, Runs, Status, Taken, WatchedInstances
from .sse import EventStream
from .view import View
from .watch import Watch

MOST_RUNS = 1000
MOST_LABELS = 16
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


async def post_run(request: Request) -> Response:
    """Begin a run, or find the one that was begun with the same id and body."""
    row, is_new = await _context(request).pool.accept(await _body(request, RunRequest))
    return Json(_begun(row), 202 if is_new else 200)


async def list_runs(request: Request) -> Response:
    """The runs, newest first."""
    pool = _context(request).pool
    wanted = _wanted(request)
    rows, counts = await asyncio.gather(pool.store.listed(wanted), pool.store.counts(wanted))
    return await asyncio.to_thread(_list, pool, rows, counts, wanted.limit)


def _list(pool: Pool, rows: Sequence[Row], counts: dict[str, int], limit: int) -> Json:
    now = time.time()
    runs = [_listed(row, _summary(pool, row, now)) for row in rows]
    last = rows[-1] if len(rows) >= limit else None
    return Json(Runs(runs, counts, None if last is None else f"{last.created_unix!r}-{last.rid}"))


def _summary(pool: Pool, row: Row, now: float) -> Summary:
    """The numbers of a run: of one that is watched here as they are now, of any other as they were last kept."""
    if row.verdict is None:
        watch = pool.going(row.run)
        view = watch.view if watch is not None else pool.broken_view(row.run)
        if view is not None:
            return view.summary(now)
    kept = row.summary or _unread(row)
    return kept if row.verdict is not None else replace(kept, state=row.state)


def _wanted(request: Request) -> Wanted:
    asked = request.query_params
    state = asked.get("state")
    if state not in (None, "going", "finished", *STATES, *ENDED):
        raise _unfit(f"`state` is one of going, finished, {', '.join((*STATES, *ENDED))}")
    labels: dict[str, str] = {}
    for text in asked.getlist("label"):
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise _unfit("`label` is NAME=VALUE")
        labels[name] = value
    if len(labels) > MOST_LABELS:
        raise _unfit(f"there are at most {MOST_LABELS} of `label`")
    before = None
    if (cursor := asked.get("before")) is not None:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?-[0-9]{1,15}", cursor):
            raise _unfit("`before` is the `next` of the page before")
        created, _, rid = cursor.rpartition("-")
        before = float(created), int(rid)
    limit = _integer(request, "limit", 100, least=1, most=MOST_RUNS)
    return Wanted(state, labels, asked.get("host") or None, before, limit)


async def get_run(request: Request) -> Response:
    """One run as it is now."""
    row, _ = await _found(request)
    view = await _context(request).pool.view_of(row)
    return await asyncio.to_thread(_status, row, view)


def _status(row: Row, view: View) -> Json:
    listed = _listed(row, view.summary(time.time()))
    known = {f.name for f in fields(Status)}
    facts = {name: value for name, value in vars(listed).items() if name in known}
    told = {**facts, **view.to_json(), "labels": row.labels, "run": row.run, "state": view.word}
    return Json(adapter_of(Status).validate_python({**told, "links": _links(row.run)}))


async def stream_events(request: Request) -> Response:
    """The events of a run as server-sent events."""
    row, watch = await _found(request)
    context = _context(request)
    pool = context.pool
    header = request.headers.get("last-event-id")
    after = _whole(header, "Last-Event-ID") if header else _integer(request, "after", 0)
    if pool.is_over(row) and after >= await pool.store.streams.last_id(row):
        return Response(status_code=204)  # tells an EventSource that there is nothing to come back for
    feed = pool.feed_of(row)
    if watch is None and not feed.listeners:
        feed.last_id = max(feed.last_id, await pool.store.streams.last_id(row))
    return EventStream(
        feed,
        pool.store.streams,
        after=after,
        closing=context.closing,
        count=context.count,
        on_leave=pool.feeds.drop,
    )


async def get_log(request: Request) -> Response:
    """The bytes of a mirror."""
    row, _ = await _found(request)
    kind = request.query_params.get("file", "core")
    follow = request.query_params.get("follow", "0")
    if kind not in ("core", "errors") or follow not in ("0", "1"):
        raise _unfit("`file` is `core` or `errors`, `follow` is `0` or `1`")
    offset = _integer(request, "from", 0)
    context = _context(request)
    log = context.pool.log_of(row, kind)
    size = await log.size_bytes()
    headers = {"x-log-size": str(size)}
    if follow == "1":
        body = log.follow(offset, is_over=lambda: context.is_over(row.run))
    else:
        headers["content-length"] = str(max(size - offset, 0))
        body = log.read(offset, size)
    return StreamingResponse(body, media_type="text/plain; charset=utf-8", headers=headers)


async def list_outputs(request: Request) -> Response:
    """What came home of a run."""
    row, _ = await _found(request)
    here = _context(request).pool.rules.outputs_of(row.run)
    return Json(await asyncio.to_thread(outputs.listed, here.folder if here is not None else None))


async def get_output(request: Request) -> Response:
    """A file that came home."""
    row, _ = await _found(request)
    here, path = _context(request).pool.rules.outputs_of(row.run), request.path_params["path"]
    descriptor = await asyncio.to_thread(outputs.opened, here.folder if here is not None else None, path)
    if descriptor is None:
        raise HTTPException(404, "there is no such output of this run")
    return outputs.as_download(descriptor, path)


async def post_secrets(request: Request) -> Response:
    """Secrets for a run that asks for them; they are kept in memory only."""
    given = await _body(request, SecretsRequest)
    row, _ = await _found(request)
    is_taken = await _context(request).pool.give_secrets(row, given.secrets)
    return Json(Taken(row.run, sorted(given.secrets) if is_taken else []), 202)


async def stop_run(request: Request) -> Response:
    """End a run on its instance."""
    row, _ = await _found(request)
    await _context(request).pool.stop(row)
    return Json(_begun(row), 202)


async def release_run(request: Request) -> Response:
    """The instance is gone."""
    row, _ = await _found(request)
    await _context(request).pool.release(row)
    return Json(_begun(row), 202)


async def list_instances(request: Request) -> Response:
    """How the instances are that are watched."""
    told = await _context(request).pool.instances.told()
    return Json(adapter_of(WatchedInstances).validate_python({"instances": told}))


async def list_hosts(request: Request) -> Response:
    """Scorecards of the instances."""
    store = _context(request).pool.store
    kept = (cards_of, await store.machines.scores()) if store.is_shared else (scorecards,)
    return Json(Hosts(await asyncio.to_thread(*kept)))


# -- what the routes share


def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


async def _found(request: Request) -> tuple[Row, Watch | None]:
    run = request.path_params["run"]
    if re.fullmatch(RUN_ID_PATTERN, run) and (found := await _context(request).pool.find(run)) is not None:
        return found
    raise HTTPException(404, "there is no such run")


async def _body(request: Request, kind: type[T]) -> T:
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


def _links(run: str) -> Links:
    base = f"/api/runs/{run}"
    return Links(base, f"{base}/events", f"{base}/log")


def _begun(row: Row) -> Begun:
    return Begun(run=row.run, **vars(_links(row.run)))


def _listed(row: Row, summary: Summary) -> Listed:
    return Listed(
        **vars(summary),
        run=row.run,
        joined=row.joined if row.joined != row.run else None,
        host=host_of(row),
        instance_id=row.instance.instance_id,
        profile=row.profile,
        labels=row.labels,
        created_unix=round(row.created_unix, 3),
        is_stopping=row.is_stopping and row.verdict is None,
    )


def _unread(row: Row) -> Summary:
    """For a run that nobody has counted yet; and for a finished one of which no numbers were kept: those of a broken one."""
    view = View(row.run)
    if row.verdict is None:
        return replace(view.summary(0.0), state=row.state)
    view.break_("its numbers were not kept as numbers")
    return replace(view.summary(0.0), state=str(row.verdict), verdict=row.verdict)


def _integer(request: Request, name: str, default: int, *, least: int = 0, most: int = LARGEST) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    value = _whole(text, name)
    if not least <= value <= most:
        raise _unfit(f"`{name}` is from {least} to {most}")
    return value


def _whole(text: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise _unfit(f"`{name}` is a whole number")
    return int(text)


def _unfit(message: str) -> HTTPException:
    return HTTPException(422, message)


_STATE = Parameter("state", {"type": "string", "enum": ["going", "finished", *STATES, *ENDED]}, "only these")
_LIMIT = Parameter("limit", {"type": "integer", "minimum": 1, "maximum": MOST_RUNS}, "at most so many")
_LABEL = Parameter(
    "label", {"type": "string", "pattern": "^[^=]+="}, "only with this label, NAME=VALUE; repeatable"
)
_HOST = Parameter(
    "host", {"type": "string"}, "only on this address, with or without its port, or instance id"
)
_BEFORE = Parameter(
    "before",
    {"type": "string", "pattern": "^[0-9]{1,12}(\\.[0-9]{1,9})?-[0-9]{1,15}$"},
    "the page after the one whose `next` this is",
)
_AFTER = Parameter(
    "after",
    {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
    "like Last-Event-ID, for the first request",
)
_LAST = Parameter(
    "Last-Event-ID",
    {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
    "the last id that was seen",
    "header",
)
_FILE = Parameter("file", {"type": "string", "enum": ["core", "errors"]}, "which mirror")
_FROM = Parameter("from", {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}, "from this byte on")
_FOLLOW = Parameter("follow", {"type": "string", "enum": ["0", "1"]}, "1: go on until the run ends")

ENDPOINTS = (
    Endpoint(
        "POST", "/api/runs", post_run, "Begin a run",
        {202: "accepted", 200: "known: the same id and body", 409: "the id means another run", 422: "wrong",
         503: "too many runs", 507: "the server's disk is full"},
        Begun, RunRequest,
    ),
    Endpoint("GET", "/api/runs", list_runs, "The runs, newest first", {200: "the runs", 422: "wrong"}, Runs, parameters=(_STATE, _LABEL, _HOST, _BEFORE, _LIMIT)),
    Endpoint("GET", "/api/runs/{run}", get_run, "One run now", {200: "its status", 404: "no such run"}, Status),
    Endpoint(
        "GET", "/api/runs/{run}/events", stream_events, "The events of both sides, as they come",
        {200: "the stream", 204: "nothing comes after that id", 404: "no such run", 422: "wrong"},
        parameters=(_LAST, _AFTER), media_type="text/event-stream",
    ),
    Endpoint(
        "GET", "/api/runs/{run}/log", get_log, "A mirror's bytes",
        {200: "the bytes", 404: "no such run", 422: "wrong"},
        parameters=(_FILE, _FROM, _FOLLOW), media_type="text/plain",
    ),
    Endpoint("GET", "/api/runs/{run}/outputs", list_outputs, "What came home", {200: "the files", 404: "no such run"}, OutputFiles),
    Endpoint(
        "GET", "/api/runs/{run}/outputs/{path:path}", get_output, "A file that came home",
        {200: "the bytes", 404: "no such run or file"}, media_type="application/octet-stream",
    ),
    Endpoint(
        "POST", "/api/runs/{run}/secrets", post_secrets, "Give the secrets that `secrets_needed` names",
        {202: "taken", 404: "no such run", 422: "wrong"}, Taken, SecretsRequest,
    ),
    Endpoint("POST", "/api/runs/{run}/stop", stop_run, "End the run on its instance", {202: "it will end", 404: "no such run"}, Begun),
    Endpoint(
        "POST", "/api/runs/{run}/release", release_run, "The instance is gone: end the run here",
        {202: "it ends as `instance-gone`", 404: "no such run"}, Begun,
    ),
    Endpoint("GET", "/api/instances", list_instances, "How the watched instances are", {200: "the instances"}, WatchedInstances),
    Endpoint("GET", "/api/hosts", list_hosts, "Scorecards of the instances", {200: "the scorecards"}, Hosts),
)  # fmt: skip
