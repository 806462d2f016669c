"""Ask an instance one thing and leave: status, stop, prune, facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .instance import Instance, build_bundle, call, first_contact

ANSWER_TIMEOUT_S = 90.0


async def ask(instance: Instance, subcommand: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Connect, run one subcommand of the agent with *request*, return its answer.

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
            timeout_s=ANSWER_TIMEOUT_S,
        )
        return answer
    finally:
        connection.abort()
