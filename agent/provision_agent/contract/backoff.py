"""Delays between attempts: full jitter, exponential, capped. Pure."""

from __future__ import annotations

import random
from typing import Callable


def full_jitter_s(
    failures: int, *, base_s: float = 0.5, cap_s: float = 30.0, rand: Callable[[], float] = random.random
) -> float:
    """How long to wait after the *failures*-th failure in a row.

    Args:
        failures: Failures so far without progress, from 1.
        base_s: The widest wait after the first failure.
        cap_s: The widest wait ever.
        rand: A number in [0, 1).

    Returns:
        Seconds, uniform in ``[0, min(cap_s, base_s * 2**(failures - 1)))``.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (the "full jitter" variant).
    """
    return rand() * min(cap_s, base_s * 2.0 ** min(max(failures - 1, 0), 32))
