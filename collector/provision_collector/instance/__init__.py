"""Reach an instance: SSH, host keys, one byte channel, the agent's bundle. The only room that imports asyncssh.

What needs asyncssh is loaded when it is asked for: naming an instance, or building the bundle, needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from provision_agent.contract.frames import NO_PYTHON

from .address import Instance
from .bundle import Bundle, build_bundle

if TYPE_CHECKING:
    from .channel import Channel, any_of
    from .connection import Connection, connect, locked_keys
    from .contact import first_contact, refusal, regain
    from .deploy import Deployment, as_answer, call, no_python, python_command, understood
    from .flag import Flag
    from .here import ask_here
    from .identities import unlock
    from .link import Emit, Link

__all__ = [
    "NO_PYTHON",
    "Bundle",
    "Channel",
    "Connection",
    "Deployment",
    "Emit",
    "Flag",
    "Instance",
    "Link",
    "any_of",
    "as_answer",
    "ask_here",
    "build_bundle",
    "call",
    "connect",
    "first_contact",
    "locked_keys",
    "no_python",
    "python_command",
    "refusal",
    "regain",
    "understood",
    "unlock",
]

_MODULES = {
    "Flag": "flag",
    "Channel": "channel",
    "Connection": "connection",
    "connect": "connection",
    "locked_keys": "connection",
    "unlock": "identities",
    "first_contact": "contact",
    "refusal": "contact",
    "regain": "contact",
    "Deployment": "deploy",
    "call": "deploy",
    "no_python": "deploy",
    "python_command": "deploy",
    "Emit": "link",
    "Link": "link",
    "any_of": "channel",
    "as_answer": "deploy",
    "ask_here": "here",
    "understood": "deploy",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
