"""Ask every source of a plan what it has: from an instance, or from this machine.

The agent does the asking in both cases, so that `plan`, `check`, `lock`, `doctor` and a run's own preflight can
never be of different opinions. From this machine it runs as a child process, secrets on its stdin.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import TypeVar

from provision_agent.contract.findings import ItemTold, SourcesAnswer, Standing, read_sources
from provision_agent.contract.frames import ANSWER_MAGIC
from provision_agent.contract.messages import SourcesRequest
from provision_agent.contract.parsing import to_json
from provision_agent.contract.plan import Plan

from ..errors import ProtocolFaultError, ProvisionError
from ..instance import Instance, build_bundle, understood
from .answers import Source, Survey

WITHIN_S = 100.0
PIN_WITHIN_S = 1900.0
"""Where an instance may have to read files whose hash nobody tells."""

T = TypeVar("T")


async def survey(
    plan: Plan,
    secrets: Mapping[str, str],
    *,
    instance: Instance | None = None,
    packages: bool = False,
    measure: bool = False,
    pin: bool = False,
) -> Survey:
    """Ask about everything in *plan*, side by side.

    Args:
        secrets: Values by name; they go where the plan's rules send them.
        instance: Who asks; None: this machine, and nothing is said of what is there already.
        packages: Also ask the package indexes what they have for the instance.
        measure: Also fetch from the largest file for three seconds, to learn the line's speed.
        pin: Also ask model hubs which commits their moving names stand for.

    Raises:
        ProvisionError: the instance cannot be asked.
    """
    request = SourcesRequest(
        plan=plan.to_json(),
        secrets=dict(secrets),
        is_instance=instance is not None,
        packages=packages,
        measure=measure,
        pin=pin,
    )
    if instance is not None:
        from ..instance.query import ask

        timeout_s = PIN_WITHIN_S if pin else WITHIN_S
        answer, standing = await ask(instance, "sources", request, read_sources, timeout_s=timeout_s)
    else:
        answer, standing = await ask_here("sources", request, read_sources, timeout_s=WITHIN_S)
    counts = [(len(answer.downloads), len(plan.downloads)), (len(answer.repos), len(plan.repos))]
    if standing is not None:
        counts += [(len(standing.present), len(plan.downloads)), (len(standing.commits), len(plan.repos))]
    if (standing is None) != (instance is None) or any(told != wanted for told, wanted in counts):
        raise ProtocolFaultError("it answers about other items than those of the plan")
    return _survey(answer, standing)


async def ask_here(
    subcommand: str, request: object, read: Callable[[Mapping[str, object]], T], *, timeout_s: float
) -> T:
    """Run one subcommand of the agent on this machine, as `ask` does on an instance.

    Args:
        subcommand: Its name.
        request: Its message, a dataclass of the contract.
        read: Makes the answer of its JSON; it raises ParseError.
        timeout_s: Seconds in all.

    Raises:
        ProvisionError: it did not end in time. ProtocolFaultError: what it said is no answer.
    """
    path = await asyncio.to_thread(_stored_agent)
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", path, subcommand),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await child.communicate(json.dumps(to_json(request)).encode())
        except TimeoutError:
            raise ProvisionError(
                f"`{subcommand}` did not end within {timeout_s:.0f} s on this machine",
                hint="try again, or ask from the instance with `--host`",
            ) from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    finally:
        os.unlink(path)
    line = out.partition(ANSWER_MAGIC)[2]
    if child.returncode != 0 or not line:
        raise RuntimeError(f"the agent ended with {child.returncode} here: {err.decode()[-2000:]}")
    return await asyncio.to_thread(understood, read, line)


def _stored_agent() -> str:
    """The agent as a file of this machine; whoever asked for it removes it."""
    descriptor, path = tempfile.mkstemp(prefix="provision-", suffix=".pyz")
    with os.fdopen(descriptor, "wb") as file:
        file.write(build_bundle().data)
    return path


def _survey(answer: SourcesAnswer, standing: Standing | None) -> Survey:
    return Survey(
        downloads=tuple(_sources(item) for item in answer.downloads),
        repos=tuple(_sources(repo) for repo in answer.repos),
        standing=standing,
        rate_bytes_per_s=answer.rate_bytes_per_s,
        taken=answer.taken,
    )


def _sources(item: ItemTold) -> tuple[Source, ...]:
    names = ("url", "class_", "message", "hint", "size_bytes", "sha256", "name", "pinned_url", "commit")
    return tuple(Source(**{name: getattr(told, name) for name in names}) for told in item.sources)
