"""A checked profile as the plan that the agent obeys: every default spelled out, every unit resolved. Pure.

Equal profiles give equal plans, so a plan's hash says whether two runs are the same work.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from typing import TypeVar

from provision_agent.contract import plan, source_kinds

from ..errors import UsageError
from . import model, paths
from .load import Profile
from .variables import suggestion

DEFAULT_WORKSPACE = "/workspace"

T = TypeVar("T")


def compile_plan(
    profile: Profile,
    *,
    workspace: str | None = None,
    timeout_s: float | None = None,
    strict: bool | None = None,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
) -> plan.Plan:
    """Make the work order of one run.

    Args:
        profile: What the instance must have.
        workspace: Replaces the profile's (``--workspace``).
        timeout_s: Replaces ``limits.run``.
        strict: Replaces ``strict``.
        skip: Steps to leave out.
        only: The steps to run, and the checks; empty means all.

    Returns:
        The plan. Another workspace may stand in only for the default one, never for one that was chosen.

    Raises:
        UsageError: an unknown step, or a workspace that is neither absolute nor ``~/…``.
    """
    document = profile.document
    folder = _workspace(workspace) if workspace is not None else document.workspace
    return plan.Plan(
        name=profile.name,
        workspace=folder,
        workspace_fallback=workspace is None and folder == DEFAULT_WORKSPACE,
        steps=_steps(skip, only),
        strict=document.strict if strict is None else strict,
        limits=_limits(document.limits, timeout_s),
        secrets=profile.secret_rules,
        apt=_unique(document.apt),
        python=_python(document.python) if document.python is not None else None,
        repos=_unique(_repo(repo) for repo in document.repos),
        downloads=_unique(_download(item, document.limits) for item in document.downloads),
        files=_unique(plan.File(f.path, f.content, f.mode, f.level) for f in document.files),
        commands=tuple(_command(command) for command in document.commands),
        checks=tuple(_check(check) for check in document.checks),
        services=tuple(_service(service) for service in document.services),
        on_failure=_hook(document.on_failure) if document.on_failure is not None else None,
    )


def _workspace(path: str) -> str:
    try:
        return paths.workspace_path(path)
    except ValueError as error:
        raise UsageError(str(error), hint="give `--workspace` an absolute path") from None


def _steps(skip: Sequence[str], only: Sequence[str]) -> tuple[str, ...]:
    for step in (*skip, *only):
        if step not in plan.STEPS:
            raise UsageError(
                f"unknown step `{step}`{suggestion(step, frozenset(plan.STEPS))}",
                hint=f"the steps are {', '.join(plan.STEPS)}",
            )
    wanted = {*only, "checks"} if only else set(plan.STEPS)
    return tuple(step for step in plan.STEPS if step in wanted and step not in skip)


def _limits(limits: model.Limits, timeout_s: float | None) -> plan.Limits:
    own = {
        name.lower(): plan.HostLimits(given.files, given.connections) for name, given in limits.hosts.items()
    }
    return plan.Limits(
        run_s=limits.run if timeout_s is None else timeout_s,
        files=limits.files,
        connections=limits.connections,
        rate_bytes_per_s=limits.rate,
        hosts=source_kinds.host_limits(own),
    )


def _item_limits(own: model.ItemLimits, general: model.ItemLimits) -> plan.ItemLimits:
    """*own*, with what it leaves out taken from *general*."""

    def chosen(key: str) -> model.ItemLimits:
        return own if key in own.model_fields_set else general

    stall = general.stall.model_copy(update=own.stall.model_dump(exclude_unset=True))
    return plan.ItemLimits(
        file_s=chosen("file").file,
        attempt_s=chosen("attempt").attempt,
        stall=plan.Stall(stall.below, stall.for_),
        connect_s=chosen("connect").connect,
        lookup_s=chosen("lookup").lookup,
        attempts=chosen("attempts").attempts,
        connections=chosen("connections").connections,
    )


def _python(python: model.Python) -> plan.Python:
    return plan.Python(
        venv=python.venv,
        installer=python.installer,
        timeout_s=python.timeout,
        retries=python.retries,
        layers=tuple(_layer(layer) for layer in python.layers),
        remove=_unique(python.remove),
        protect=_unique(python.protect),
    )


def _layer(layer: model.Layer) -> plan.Layer:
    torch = layer.torch
    return plan.Layer(
        packages=layer.packages,
        torch=plan.Torch(torch.version, torch.accelerator, torch.with_) if torch is not None else None,
        requirements=layer.requirements,
    )


def _repo(repo: model.Repo) -> plan.Repo:
    return plan.Repo(
        url=repo.url,
        path=posixpath.normpath(repo.path),
        mirrors=repo.mirrors,
        ref=repo.ref,
        submodules=repo.submodules,
        install=repo.install,
        level=repo.level,
    )


def _download(item: model.Download, general: model.Limits) -> plan.Download:
    substitute = item.substitute
    return plan.Download(
        url=item.url,
        path=item.path,
        mirrors=item.mirrors,
        substitute=plan.Substitute(substitute.url, substitute.path) if substitute is not None else None,
        size_bytes=item.size,
        sha256=item.sha256.lower() if item.sha256 is not None else None,
        level=item.level,
        when=_when(item.when) if item.when is not None else None,
        limits=_item_limits(item.limits, general),
        unpack=item.unpack,
        include=item.include,
        exclude=item.exclude,
    )


def _when(when: model.When) -> plan.When:
    return plan.When(gpu_memory=when.gpu_memory, secret=when.secret, disk_free=when.disk_free)


def _command(command: model.Command) -> plan.Command:
    return plan.Command(
        name=command.name,
        run=command.run,
        directory=command.directory,
        environment=dict(command.environment),
        secrets=command.secrets,
        timeout_s=command.timeout,
        level=command.level,
    )


def _check(check: model.Check) -> plan.Check:
    return plan.Check(
        name=check.name,
        path=check.path,
        glob=check.glob or (),
        min_count=check.min_count,
        min_size_bytes=check.min_size,
        imports=check.imports or (),
        level=check.level,
    )


def _service(service: model.Service) -> plan.Service:
    ready = service.ready
    return plan.Service(
        name=service.name,
        run=service.run,
        directory=service.directory,
        environment=dict(service.environment),
        ready=plan.Ready(ready.url, ready.within, ready.successes, dict(ready.json_)) if ready else None,
        restart=service.restart,
        start=service.start,
        level=service.level,
    )


def _hook(hook: model.Hook) -> plan.Hook:
    return plan.Hook(run=hook.run, secrets=hook.secrets, timeout_s=hook.timeout)


def _unique(items: Iterable[T]) -> tuple[T, ...]:
    """Without repetitions: the same item twice is one item."""
    kept: list[T] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return tuple(kept)
