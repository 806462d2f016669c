"""How many examples a random test takes: few in the usual run, many in ``make soak``."""

from __future__ import annotations

import os

import pytest

MANY = 20
"""Times as many in ``make soak``, which sets ``PROVISION_SOAK``."""

sampled = pytest.mark.sampled
"""A test of `examples`: ``make soak`` runs it again, with many."""


def examples(few: int) -> int:
    """As many as are wanted now: *few*, or many times that."""
    return few * MANY if os.environ.get("PROVISION_SOAK") else few
