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
from collections.abc import Mapping
from typing import Any

from provision_agent.contract.frames import ANSWER_MAGIC
from provision_agent.contract.plan import Plan

from ..errors import ProvisionError
from ..instance import Instance, build_bundle
from .answers import Present, Source, Standing, Survey

WITHIN_S = 100.0


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
    request = {
        "plan": plan.to_json(),
        "secrets": dict(secrets),
        "is_instance": instance is not None,
        "packages": packages,
        "measure": measure,
        "pin": pin,
    }
    if instance is not None:
        from ..instance.query import ask

        answer = await ask(instance, "sources", request, timeout_s=WITHIN_S)
    else:
        answer = await ask_here("sources", request, timeout_s=WITHIN_S)
    return _read(answer)


async def ask_here(subcommand: str, request: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Run one subcommand of the agent on this machine; its answer."""
    descriptor, path = tempfile.mkstemp(prefix="provision-", suffix=".pyz")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(build_bundle().data)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", path, subcommand),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await child.communicate(json.dumps(request).encode())
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
    return dict(json.loads(line))


def _read(answer: Mapping[str, Any]) -> Survey:
    return Survey(
        downloads=tuple(_sources(item) for item in answer["downloads"]),
        repos=tuple(_sources(repo) for repo in answer["repos"]),
        standing=_standing(answer) if "workspace" in answer else None,
        rate_bytes_per_s=answer.get("rate_bytes_per_s"),
        taken=answer["taken"],
    )


def _sources(item: Mapping[str, Any]) -> tuple[Source, ...]:
    names = ("url", "message", "hint", "size_bytes", "sha256", "name", "pinned_url", "commit")
    return tuple(
        Source(class_=told["class"], **{name: told[name] for name in names if told.get(name) is not None})
        for told in item["sources"]
    )


def _standing(answer: Mapping[str, Any]) -> Standing:
    return Standing(
        workspace=str(answer["workspace"]),
        can_write=bool(answer["can_write"]),
        facts=answer["facts"],
        unix=float(answer["unix"]),
        present=tuple(
            Present(item["state"], item["missing_bytes"], item.get("size_bytes"), item["sha256"])
            for item in answer["present"]
        ),
        unmet=tuple(answer["unmet"]),
        commits=tuple(answer["commits"]),
        disks=tuple(answer["disks"]),
        installed=answer["installed"],
        packages=tuple(answer["packages"]),
    )
