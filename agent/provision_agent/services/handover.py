"""How a service's secrets reach its supervisor: over a socket, so that they are in memory only and on no disk.

The supervisor listens under a name that nobody can guess, which its status tells, and goes on once it has them. After
a reboot nobody can give them: it waits until the next run does.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import time
from typing import Dict, Mapping, Optional, Sequence

from ..contract.parsing import ParseError, read_json

GIVE_S = 10.0
MAX_BYTES = 8 << 20
_TAKEN = b"taken\n"
_CREDENTIALS = struct.Struct("3i")


class Door:
    """The supervisor's side: a listening socket without a place on any disk."""

    def __init__(self) -> None:
        self.name = f"provision-{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(_address(self.name))
        self._socket.listen(4)
        self._socket.settimeout(GIVE_S)

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def take(self, names: Sequence[str]) -> Optional[Dict[str, str]]:
        """What somebody who knocked gives; None unless it is our own user or root, and all of *names*."""
        try:
            caller, _ = self._socket.accept()
        except OSError:
            return None
        with caller:
            if _user_of(caller) not in (0, os.geteuid()):
                return None
            values = _read(caller)
            if values is None or any(name not in values for name in names):
                return None
            try:
                caller.sendall(_TAKEN)
            except OSError:
                pass  # who gave it is gone; it was given all the same
            return {name: values[name] for name in names}

    def close(self) -> None:
        """Take nothing more."""
        self._socket.close()


def give(name: str, pid: int, values: Mapping[str, str]) -> bool:
    """Give *values* to the supervisor *pid*, which listens under *name*; False when it does not take them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(GIVE_S)
        try:
            door.connect(_address(name))
            if _process_of(door) != pid:
                return False  # somebody else took that name
            door.sendall(json.dumps(dict(values)).encode() + b"\n")
            return door.recv(len(_TAKEN)) == _TAKEN
        except OSError:
            return False


def _address(name: str) -> str:
    return f"\0{name}"


def _read(caller: socket.socket) -> Optional[Dict[str, str]]:
    caller.settimeout(GIVE_S)
    end, data = time.monotonic() + GIVE_S, b""
    try:
        while not data.endswith(b"\n"):
            piece = caller.recv(65536)
            data += piece
            if not piece or len(data) > MAX_BYTES or time.monotonic() > end:
                return None
        found = read_json(data, max_bytes=MAX_BYTES)
    except (OSError, ParseError):
        return None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        return None
    return {str(name): str(value) for name, value in found.items()}


def _credentials(connected: socket.socket) -> "tuple[int, int, int]":
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, group = _CREDENTIALS.unpack(raw)
    return pid, user, group


def _process_of(connected: socket.socket) -> int:
    """Who listened there, at the time when it began to."""
    return _credentials(connected)[0]


def _user_of(connected: socket.socket) -> int:
    return _credentials(connected)[1]
