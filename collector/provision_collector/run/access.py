"""Does the key still open the door? A connection that is open says nothing of that, so a new one is tried now and then."""

from __future__ import annotations

import asyncio
import random

from ..errors import ProvisionError
from ..instance import Emit, Instance, refusal

PROVE_EVERY_S = 300.0
SPREAD = 0.2
"""Runs that began together do not ask together."""


async def keep_proving(instance: Instance, emit: Emit) -> None:
    """Try a fresh connection every `PROVE_EVERY_S`; say `access_lost` when the key is refused, once until it is taken again."""
    is_lost = False
    while True:
        await asyncio.sleep(PROVE_EVERY_S * random.uniform(1 - SPREAD, 1 + SPREAD))  # noqa: S311
        try:
            refused = await refusal(instance)
        except ProvisionError:
            continue  # the open connection will say so
        if refused is not None and not is_lost:
            emit("access_lost", host=str(instance), cause=str(refused))
        is_lost = refused is not None
