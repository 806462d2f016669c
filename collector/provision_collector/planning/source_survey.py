"""Ask every source of a plan what it has: from an instance, or from this machine.

The agent does the asking in both cases, so that `plan`, `check`, `lock`, `doctor` and a run's own preflight can
never be of different opinions. From this machine it runs as a child process, secrets on its stdin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from provision_agent.contract.buckets import SignedSource
from provision_agent.contract.environment_told import EnvironmentTarget
from provision_agent.contract.findings import ItemTold, SourcesAnswer, SourcesRequest, Standing, read_sources
from provision_agent.contract.plan import Plan

from ..errors import ProtocolFaultError, ProvisionError
from ..instance import Instance, ask_here
from ..run.default_secrets import held_back
from .answers import Source, Survey
from .uv_tool import find_uv

WITHIN_S = 100.0
PIN_WITHIN_S = 1900.0
"""Where an instance may have to read files whose hash nobody tells."""


async def survey(
    plan: Plan,
    secrets: Mapping[str, str],
    *,
    instance: Instance | None = None,
    packages: bool = False,
    measure: bool = False,
    pin: bool = False,
    target: EnvironmentTarget | None = None,
    signed: Sequence[SignedSource] = (),
) -> Survey:
    """Ask about everything in *plan*, side by side.

    Args:
        secrets: Values by name; they go where the plan's rules send them. Default ones go to an instance only when
            a host refused it without them.
        instance: Who asks; None: this machine, and nothing is said of what is there already.
        packages: Also ask the package indexes what they have for the instance, or for *target*.
        measure: Also fetch from the largest file for three seconds, to learn the line's speed.
        pin: Also ask model hubs which commits their moving names stand for, and name the wheels.
        target: The machine that packages are chosen for, where no instance is asked.
        signed: Addresses in buckets.

    Raises:
        ProvisionError: the instance cannot be asked.
    """
    rules = {rule.name for rule in plan.secrets}
    secrets = {name: value for name, value in secrets.items() if name in rules}
    held = held_back(plan.secrets, secrets) if instance is not None else frozenset()
    request = SourcesRequest(
        plan=plan.to_json(),
        secrets={name: value for name, value in secrets.items() if name not in held},
        offered=tuple(sorted(held)),
        signed=tuple(signed),
        is_instance=instance is not None,
        packages=packages and (instance is not None or target is not None),
        measure=measure,
        pin=pin,
        target=target,
        uv=await asyncio.to_thread(find_uv)
        if packages and target is not None and plan.python is not None
        else "",
    )
    first = replace(request, packages=False, measure=False, pin=False) if held and pin else request
    answer, standing = await _put(first, instance)
    more = {name: secrets[name] for name in held.intersection(answer.secrets_wanted)}
    if more or first is not request:
        answer, standing = await _put(replace(request, secrets={**request.secrets, **more}), instance)
    counts = [(len(answer.downloads), len(plan.downloads)), (len(answer.repos), len(plan.repos))]
    if standing is not None:
        counts += [(len(standing.present), len(plan.downloads)), (len(standing.commits), len(plan.repos))]
    if (standing is None) != (instance is None) or any(told != wanted for told, wanted in counts):
        raise ProtocolFaultError("it answers about other items than those of the plan")
    answer = await _with_packages(plan, request, answer)
    return _survey(answer, standing)


async def _with_packages(plan: Plan, request: SourcesRequest, answer: SourcesAnswer) -> SourcesAnswer:
    """*answer*; where the instance has nothing to choose packages with, they are chosen here for what it is."""
    told = answer.environment
    if (
        told is None
        or told.basis != "unknown"
        or told.class_
        or not told.python
        or request.target is not None
    ):
        return answer
    bare = replace(plan, downloads=(), services=())
    try:
        uv = await asyncio.to_thread(find_uv)
        target = EnvironmentTarget(told.python, told.platform, told.accelerator)
        here = replace(
            request,
            plan=bare.to_json(),
            is_instance=False,
            packages=True,
            measure=False,
            target=target,
            uv=uv,
        )
        asked = await ask_here("sources", here, read_sources, timeout_s=WITHIN_S)
    except ProvisionError as error:
        return replace(answer, environment=replace(told, message=f"{told.message}; {error}"))
    return replace(answer, environment=asked[0].environment)


async def _put(request: SourcesRequest, instance: Instance | None) -> tuple[SourcesAnswer, Standing | None]:
    if instance is None:
        return await ask_here("sources", request, read_sources, timeout_s=WITHIN_S)
    from ..instance.query import ask

    timeout_s = PIN_WITHIN_S if request.pin else WITHIN_S
    return await ask(instance, "sources", request, read_sources, timeout_s=timeout_s)


def _survey(answer: SourcesAnswer, standing: Standing | None) -> Survey:
    return Survey(
        downloads=tuple(_sources(item) for item in answer.downloads),
        repos=tuple(_sources(repo) for repo in answer.repos),
        standing=standing,
        rate_bytes_per_s=answer.rate_bytes_per_s,
        taken=answer.taken,
        secrets_wanted=answer.secrets_wanted,
        environment=answer.environment,
    )


def _sources(item: ItemTold) -> tuple[Source, ...]:
    names = ("url", "class_", "message", "hint", "size_bytes", "sha256", "name", "pinned_url", "commit")
    return tuple(Source(**{name: getattr(told, name) for name in names}) for told in item.sources)
