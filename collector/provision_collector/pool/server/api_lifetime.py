"""The routes of when an instance ends itself: what it says of it now, and how that is put off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from provision_agent.contract.lifetime_told import LifetimeTold
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from ...errors import UsageError
from .answers import Json
from .asking import extended, lifetime_of
from .endpoints import Endpoint, body_of, context_of, found_of, unfit
from .orders import Duration, seconds_of


@dataclass(frozen=True)
class KeepRequest:
    """For how long an instance is wanted beyond what the `lifetime` of its profile says."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    for_: Annotated[Duration, Field(alias="for")]


@dataclass(frozen=True)
class Lifetime:
    """When the instance of a run ends itself, as it says now."""

    run: str
    lifetime: LifetimeTold


async def keep_run(request: Request) -> Response:
    """Put off the end of an instance that ends itself."""
    given = await body_of(request, KeepRequest)
    row, _ = await found_of(request)
    for_s = seconds_of("for", given.for_)
    if not for_s:
        raise unfit("`for` is a duration above 0, such as `2h`")
    return Json(Lifetime(row.run, await extended(context_of(request).pool, row, for_s)))


async def get_lifetime(request: Request) -> Response:
    """When the instance ends itself."""
    row, _ = await found_of(request)
    told = await lifetime_of(context_of(request).pool, row)
    if told is None:
        raise UsageError(
            "nothing ends the instance of this run by itself", hint="its profile says so with `lifetime`"
        )
    return Json(Lifetime(row.run, told))


_ASKED = {404: "no such run", 422: "nothing ends its instance", 424: "the instance cannot be reached now"}

LIFETIME = (
    Endpoint(
        "GET", "/api/runs/{run}/lifetime", get_lifetime, "When its instance ends itself; asked there now",
        {200: "when", **_ASKED}, Lifetime,
    ),
    Endpoint(
        "POST", "/api/runs/{run}/keep", keep_run, "Put off the end of its instance",
        {200: "when it ends now", 409: "it is being ended already", **_ASKED}, Lifetime, KeepRequest,
    ),
)  # fmt: skip
