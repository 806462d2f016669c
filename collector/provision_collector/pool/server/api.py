"""The routes under ``/api``: what each takes and answers stands in `ENDPOINTS`, which the OpenAPI document is made of."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import fields, replace

from starlette.requests import Request
from starlette.responses import Response

from ..scorecard import cards_of, scorecards
from ..store.rows import ENDED, STATES, Row, Summary
from ..store.store import Wanted, host_of
from .answers import Json, adapter_of
from .api_files import FILES
from .api_lifetime import LIFETIME
from .endpoints import Endpoint, Parameter, body_of, context_of, found_of, integer_of, unfit, whole_of
from .orders import RunRequest, SecretsRequest
from .pool import Pool
from .schemas import Begun, Hosts, Links, Listed, Runs, Status, Taken, WatchedInstances
from .sse import EventStream
from .view import View

MOST_RUNS = 1000
MOST_LABELS = 16


async def post_run(request: Request) -> Response:
    """Begin a run, or find the one that was begun with the same id and body."""
    row, is_new = await context_of(request).pool.accept(await body_of(request, RunRequest))
    return Json(_begun(row), 202 if is_new else 200)


async def list_runs(request: Request) -> Response:
    """The runs, newest first."""
    pool = context_of(request).pool
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
        raise unfit(f"`state` is one of going, finished, {', '.join((*STATES, *ENDED))}")
    labels: dict[str, str] = {}
    for text in asked.getlist("label"):
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise unfit("`label` is NAME=VALUE")
        labels[name] = value
    if len(labels) > MOST_LABELS:
        raise unfit(f"there are at most {MOST_LABELS} of `label`")
    before = None
    if (cursor := asked.get("before")) is not None:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?-[0-9]{1,15}", cursor):
            raise unfit("`before` is the `next` of the page before")
        created, _, rid = cursor.rpartition("-")
        before = float(created), int(rid)
    limit = integer_of(request, "limit", 100, least=1, most=MOST_RUNS)
    return Wanted(state, labels, asked.get("host") or None, before, limit)


async def get_run(request: Request) -> Response:
    """One run as it is now."""
    row, _ = await found_of(request)
    view = await context_of(request).pool.view_of(row)
    return await asyncio.to_thread(_status, row, view)


def _status(row: Row, view: View) -> Json:
    listed = _listed(row, view.summary(time.time()))
    known = {f.name for f in fields(Status)}
    facts = {name: value for name, value in vars(listed).items() if name in known}
    told = {**facts, **view.to_json(), "labels": row.labels, "run": row.run, "state": view.word}
    return Json(adapter_of(Status).validate_python({**told, "links": _links(row.run)}))


async def stream_events(request: Request) -> Response:
    """The events of a run as server-sent events."""
    row, watch = await found_of(request)
    context = context_of(request)
    pool = context.pool
    header = request.headers.get("last-event-id")
    after = whole_of(header, "Last-Event-ID") if header else integer_of(request, "after", 0)
    is_over = pool.is_over(row)
    told = await pool.store.streams.last_id(row) if is_over or watch is None else 0
    if is_over and after >= told:
        return Response(status_code=204)  # tells an EventSource that there is nothing to come back for
    feed = pool.feed_of(
        row
    )  # from here on nothing is waited for: a feed that nobody follows yet may be dropped
    if not feed.is_own and not feed.listeners:
        feed.last_id = max(feed.last_id, told)
    return EventStream(
        feed,
        pool.store.streams,
        after=after,
        closing=context.closing,
        count=context.count,
        on_leave=pool.feeds.drop,
    )


async def post_secrets(request: Request) -> Response:
    """Secrets for a run that asks for them; they are kept in memory only."""
    given = await body_of(request, SecretsRequest)
    row, _ = await found_of(request)
    is_taken = await context_of(request).pool.give_secrets(row, given.secrets)
    return Json(Taken(row.run, sorted(given.secrets) if is_taken else []), 202)


async def stop_run(request: Request) -> Response:
    """End a run on its instance."""
    row, _ = await found_of(request)
    await context_of(request).pool.stop(row)
    return Json(_begun(row), 202)


async def release_run(request: Request) -> Response:
    """The instance is gone."""
    row, _ = await found_of(request)
    await context_of(request).pool.release(row)
    return Json(_begun(row), 202)


async def list_instances(request: Request) -> Response:
    """How the instances are that are watched."""
    told = await context_of(request).pool.instances.told()
    return Json(adapter_of(WatchedInstances).validate_python({"instances": told}))


async def list_hosts(request: Request) -> Response:
    """Scorecards of the instances."""
    store = context_of(request).pool.store
    kept = (cards_of, await store.machines.scores()) if store.is_shared else (scorecards,)
    return Json(Hosts(await asyncio.to_thread(*kept)))


# -- what the routes share


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
    *FILES,
    *LIFETIME,
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
