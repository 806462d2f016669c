"""Bring rented GPU instances to what a profile says, and know exactly how it went.

The public API is what stands in `__all__`; everything else may change without notice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import (
        AgentLostError,
        AuthRefusedError,
        ContactLostError,
        HostKeyError,
        HostUnreachableError,
        LocalMachineError,
        ProfileError,
        ProvisionError,
        RefusedError,
        UsageError,
    )
    from .instance import Instance
    from .pool.begin import attach, start
    from .profile import Profile
    from .run.run import Run
    from .run.start import known_instance

__all__ = [
    "AgentLostError",
    "AuthRefusedError",
    "ContactLostError",
    "HostKeyError",
    "HostUnreachableError",
    "Instance",
    "LocalMachineError",
    "Profile",
    "ProfileError",
    "ProvisionError",
    "RefusedError",
    "Run",
    "UsageError",
    "attach",
    "known_instance",
    "start",
]

_HOMES = {
    "Instance": "instance",
    "Profile": "profile",
    "Run": "run.run",
    "attach": "pool.begin",
    "known_instance": "run.start",
    "start": "pool.begin",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
