"""Reach an instance: SSH, host keys, one byte channel, the agent's bundle. The only room that imports asyncssh."""

from __future__ import annotations

from provision_agent.contract.frames import NO_PYTHON

from .address import Instance
from .bundle import Bundle, build_bundle
from .channel import Channel, any_of
from .connection import Connection, connect
from .contact import first_contact, refusal, regain
from .deploy import Deployment, as_answer, call, no_python, python_command, understood
from .link import Link

__all__ = [
    "NO_PYTHON",
    "Bundle",
    "Channel",
    "Connection",
    "Deployment",
    "Instance",
    "Link",
    "any_of",
    "as_answer",
    "build_bundle",
    "call",
    "connect",
    "first_contact",
    "no_python",
    "python_command",
    "refusal",
    "regain",
    "understood",
]
