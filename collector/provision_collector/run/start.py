"""Start or join a run: the library's front door."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from provision_agent.contract.buckets import Buckets
from provision_agent.contract.plan import Plan

from ..errors import UsageError
from ..files import UploadSource, sources_of, without_local_files
from ..instance import Instance
from ..profile import Profile, compile_plan, secret_values
from . import registry
from .run import OnEnd, Run
from .signing import Sign
from .spec import NO_BUCKETS, Known, Order, OutputsHere


async def start(
    instance: Instance,
    profile: Profile | Plan,
    *,
    run_id: str | None = None,
    secrets: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    logs_dir: str | os.PathLike[str] = "logs",
    workspace: str | None = None,
    timeout_s: float | None = None,
    strict: bool | None = None,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    replace: bool = False,
    kill_holders: bool = False,
    offline: bool = False,
    default_secrets: bool = True,
    buckets: Buckets | None = None,
    sign: Sign | None = None,
    uploads: tuple[UploadSource, ...] | None = None,
    outputs: OutputsHere | None = None,
    on_end: OnEnd | None = None,
) -> Run:
    """Begin to bring *instance* to what *profile* says; returns at once, with the run being watched.

    Args:
        instance: The machine. profile: What it must have; a `Plan` is taken as it is (options that change one do nothing).
        run_id: Its name; None: a new one. secrets: Values by name; None takes those of this process's environment.
        labels: Come back in events and in the outcome. logs_dir: Where the mirrors go.
        workspace, timeout_s, strict, skip, only: As of `compile_plan`. replace, kill_holders: As the options of `up`.
        default_secrets: Do the built-in rules stand? sign: Signs addresses in buckets. on_end: As of `Run`. buckets,
            uploads: Where those of a `Plan` are; else as the profile says. outputs: Where they go; None: nowhere.
        offline: Ask no outside host: what is on the instance's disk has to do, and what is missing is told.

    Returns: the `Run`: iterate `events()`, await `outcome()`, call `stop()`; leaving it does not end it.

    Raises: `ProfileError`: the profile is wrong. `UsageError`: the order cannot mean anything.
    """
    await asyncio.to_thread(_refuse_finished, run_id)
    shape = partial(
        compile_plan, workspace=workspace, timeout_s=timeout_s, strict=strict, skip=skip, only=only
    )
    plan, values, own = _planned(profile, shape, secrets, default_secrets=default_secrets)
    order = Order(
        plan=plan,
        run_id=run_id,
        secrets=values,
        labels=dict(labels or {}),
        replace=replace,
        kill_holders=kill_holders,
        offline=offline,
        logs_dir=Path(logs_dir),
        profile=plan.name,
        environment=dict(os.environ) if secrets is None else {},
        buckets=buckets or own,
        sign=None if offline else sign,
        uploads=_local_files(profile, plan) if uploads is None else uploads,
        outputs=outputs,
    )
    return Run(instance, order, on_end=on_end)


def _local_files(profile: Profile | Plan, plan: Plan) -> tuple[UploadSource, ...]:
    if isinstance(profile, Profile):
        return sources_of(profile, plan)
    without_local_files(plan)
    return ()


async def attach(
    instance: Instance,
    *,
    run_id: str | None = None,
    workspace: str | None = None,
    logs_dir: str | os.PathLike[str] = "logs",
    secrets: Mapping[str, str] | None = None,
    profile: Profile | Plan | None = None,
    only_looks: bool = False,
    sign: Sign | None = None,
    outputs: OutputsHere | None = None,
    on_end: OnEnd | None = None,
) -> Run:
    """Watch a run that is already on *instance*, to its end; None as *run_id* means the current one.

    A run whose processes died is started again. Which secrets are sent then is never the instance's word.

    Args:
        instance: The machine and how to reach it.
        run_id: The run; None means the current one there.
        workspace: The folder on the instance, if it has several.
        logs_dir: Where new mirrors go.
        secrets: Values by name that this instance may have; None looks up in this process's environment those that
            *profile* names, else those that this machine recorded when it started the run (none for other runs).
        profile: What the run was started with, where this machine has no record of it.
        only_looks: Leave a run whose processes died as it is; then it is lost.
        sign, outputs: As of `start`. on_end: As of `Run`.

    Returns:
        The `Run`. One whose limit neither *profile* nor a record says is watched for 24 hours.

    Raises:
        ProfileError: the profile is wrong.
    """
    plan = compile_plan(profile) if isinstance(profile, Profile) else profile
    buckets = profile.buckets if isinstance(profile, Profile) else NO_BUCKETS
    uploads = sources_of(profile, plan) if isinstance(profile, Profile) and plan is not None else ()
    order = Order(
        plan=None,
        run_id=run_id,
        secrets=dict(secrets or {}),
        environment=dict(os.environ) if secrets is None else {},
        known=None if plan is None else Known.of(plan, buckets, uploads),
        sign=sign,
        workspace=workspace,
        logs_dir=Path(logs_dir),
        only_looks=only_looks,
        outputs=outputs,
    )
    return Run(instance, order, on_end=on_end)


def _planned(
    profile: Profile | Plan,
    shape: Callable[[Profile], Plan],
    secrets: Mapping[str, str] | None,
    *,
    default_secrets: bool,
) -> tuple[Plan, dict[str, str], Buckets]:
    """The plan, the values of its secrets, and where its buckets are."""
    if isinstance(profile, Plan):
        return profile, dict(secrets or {}), NO_BUCKETS
    profile = profile if default_secrets else profile.without_default_secrets()
    values = secret_values(profile, os.environ)[0] if secrets is None else dict(secrets)
    return shape(profile), values, profile.buckets


def known_instance(run_id: str) -> tuple[Instance, registry.RunRecord]:
    """How the run *run_id* was reached from this machine. Raises `UsageError` when it is not known here."""
    record = registry.known(run_id)
    return record.to_instance(), record


def _refuse_finished(run_id: str | None) -> None:
    if run_id is not None:
        record = registry.find(run_id)
        if record is not None and record.verdict is not None and record.is_named_here:
            raise UsageError(
                f"run `{run_id}` is finished ({record.verdict})", hint="choose another `--run-id`"
            )
