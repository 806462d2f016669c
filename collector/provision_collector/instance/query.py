"""Ask an instance one thing and leave: status, stop, prune, facts, verify, sources, audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import Instance, build_bundle, call, first_contact

ANSWER_TIMEOUT_S = 90.0


async def ask(
    instance: Instance, subcommand: str, request: Mapping[str, Any], *, timeout_s: float = ANSWER_TIMEOUT_S
) -> dict[str, Any]:
    """Connect, run one subcommand of the agent with *request*, return its answer, which may take *timeout_s*.

    Raises:
        ProvisionError: of the kind that says why not.
    """
    workspace = request.get("workspace")
    connection = await first_contact(instance, on_wait=lambda *_: None)
    try:
        _, answer = await call(
            connection,
            build_bundle(),
            folders=[f"{workspace}/.provision/agent" if workspace else "~/.provision/agent"],
            arguments=[subcommand],
            request=request,
            timeout_s=timeout_s,
        )
        return answer
    finally:
        connection.abort()
