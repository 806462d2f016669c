"""How git gets a token: it asks a helper, and the helper reads from a pipe. Never argv, a file, or an environment.

A token goes to the exact https hosts of its rule. For these no other helper is asked: one that stores would keep it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Optional, Tuple

from ..contract.plan_parts import SecretRule
from ..run.context import Context

USER = "x-access-token"
"""GitHub wants this name beside a token; the others take any."""
ASKING = ("clone", "fetch", "ls-remote", "submodule")
"""Commands that ask somebody else."""
_MOST_BYTES = 32 << 10
"""Less than a pipe holds: nobody waits while it is filled."""
_PIPE_BUF = 4096
"""So many bytes of a pipe are read at once, whoever else reads from it."""


class Login(NamedTuple):
    """What a git command is given: options, and descriptors that it and its children inherit."""

    options: Tuple[str, ...] = ()
    descriptors: Tuple[int, ...] = ()


@contextmanager
def login_for(command: str, context: Context) -> Iterator[Login]:
    """The logins of *context* for ``git <command>``; their descriptors are closed at the end."""
    options: List[str] = []
    descriptors: List[int] = []
    try:
        for rule in context.rules if command in ASKING else ():
            record = _record(rule, context)
            if record is None:
                continue
            descriptor = _filled(record)
            descriptors.append(descriptor)
            for host in rule.hosts:
                name = f"credential.https://{host}.helper"
                options += ["-c", f"{name}=", "-c", f"{name}={_helper(descriptor, len(record))}"]
        yield Login(tuple(options), tuple(descriptors))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _record(rule: SecretRule, context: Context) -> Optional[bytes]:
    """What the helper of *rule* answers; None where there is nothing, or where git's lines cannot carry it."""
    value = context.secrets.get(rule.name, "")
    record = f"username={USER}\npassword={value}\n".encode("utf-8", "surrogateescape")
    return record if value and value.isprintable() and len(record) <= _PIPE_BUF else None


def _filled(record: bytes) -> int:
    """The end to read from of a pipe that holds *record* as often as git may ask for it."""
    reading, writing = os.pipe()
    try:
        os.write(writing, record * (_MOST_BYTES // len(record)))
    finally:
        os.close(writing)
    return reading


def _helper(descriptor: int, size_bytes: int) -> str:
    """A helper in sh: one read of the pipe is one answer, although several may ask at once."""
    read = f"head -c {size_bytes} </proc/self/fd/{descriptor}"
    return f'!provision() {{ test "$1" = get && {read}; }}; provision'
