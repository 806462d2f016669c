"""Ask an instance one thing and leave: status, stop, prune, facts, verify, sources, audit, capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .address import Instance
from .contact import first_contact
from .deploy import Json, call

ANSWER_TIMEOUT_S = 90.0

T = TypeVar("T")


async def ask(
    instance: Instance,
    subcommand: str,
    request: object,
    read: Callable[[Json], T],
    *,
    workspace: str | None = None,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> T:
    """Connect, run one *subcommand* of the agent with *request*, return its answer.

    Args:
        request: A dataclass of `contract.messages`.
        read: Makes the answer of its JSON object, such as ``as_answer(StopAnswer)``.
        workspace: The folder on the instance that the question is about: the agent may be stored there.
        timeout_s: How long the answer may take, in seconds.

    Raises:
        ProtocolFaultError: the answer is none. ProvisionError: of the kind that says why there is none.
    """
    connection = await first_contact(instance, on_wait=lambda *_: None)
    try:
        _, answer = await call(
            connection,
            folders=[f"{workspace}/.provision/agent" if workspace else "~/.provision/agent"],
            arguments=[subcommand],
            request=request,
            read=read,
            timeout_s=timeout_s,
        )
        return answer
    finally:
        connection.abort()
