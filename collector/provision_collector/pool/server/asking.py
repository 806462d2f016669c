"""What a client wants to know of a run's instance now, or do there: asked over a connection of its own, and never for long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from provision_agent.contract.lifetime_told import ExtendAnswer, ExtendRequest, LifetimeTold
from provision_agent.contract.messages import RunFound, StatusAnswer, StatusRequest
from provision_agent.contract.parsing import parse

from ...instance import as_answer
from ...instance.deploy import Json
from ...instance.query import ask
from ..store.rows import Row
from .keeping import reached_from_here
from .pool import Pool

ANSWER_WITHIN_S = 60.0

T = TypeVar("T")


async def extended(pool: Pool, row: Row, for_s: float) -> LifetimeTold:
    """Put off the end of the instance of a run by *for_s* seconds.

    Returns:
        When it ends now.

    Raises:
        ProvisionError: nothing ends it, it is being ended, or it does not answer.
    """
    run, workspace = row.joined or row.run, await _workspace(pool, row)
    request = ExtendRequest(for_s, run, workspace)
    return (await _ask(pool, row, "extend", request, as_answer(ExtendAnswer), workspace)).lifetime


async def lifetime_of(pool: Pool, row: Row) -> LifetimeTold | None:
    """When the instance of a run ends itself; None: nothing there measures that. Raises ProvisionError: it does not answer."""
    run, workspace = row.joined or row.run, await _workspace(pool, row)
    answer = await _ask(
        pool, row, "status", StatusRequest(run, workspace), as_answer(StatusAnswer), workspace
    )
    return next((parse(RunFound, each, "runs").lifetime for each in answer.runs), None)


async def _workspace(pool: Pool, row: Row) -> str | None:
    view = await pool.view_of(row)
    return view.run_state.workspace or None


async def _ask(
    pool: Pool, row: Row, subcommand: str, request: object, read: Callable[[Json], T], workspace: str | None
) -> T:
    instance = await reached_from_here(row.instance, pool.store, pool.rules)
    at_once = replace(instance, boot_grace_s=0.0)
    return await ask(at_once, subcommand, request, read, workspace=workspace, timeout_s=ANSWER_WITHIN_S)
