"""The agent as a child process of this machine: for questions that need no instance."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import TypeVar

from provision_agent.contract.frames import ANSWER_MAGIC
from provision_agent.contract.parsing import to_json

from ..errors import ProvisionError
from .bundle import build_bundle
from .deploy import understood

T = TypeVar("T")


async def ask_here(
    subcommand: str, request: object, read: Callable[[Mapping[str, object]], T], *, timeout_s: float
) -> T:
    """Run one subcommand of the agent on this machine; its answer, as `ask`."""
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
