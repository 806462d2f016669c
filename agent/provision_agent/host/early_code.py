"""The modules of this agent, compiled by a process beside `start` while that decides, for the agent that it begins.

Compiling is half of what an agent needs to begin, and `start` leaves every other core idle. The code goes through memory that has
no name and that only descendants of this process have: it is that of the archive which was verified, whatever lies on the disk.
"""

from __future__ import annotations

import marshal
import os
import struct
from types import CodeType
from typing import Dict, Iterator, Optional, Protocol, Tuple, cast

from ..contract import loading

ROOMS = ("run", "downloads", "steps", "host", "files", "services", "jobs", "lifetime")
"""What a run loads and `start` does not, the first first."""
_HEAD = struct.Struct("<II")


class _Loader(Protocol):
    """What started this agent: see `contract.loading`."""

    path: str
    files: Dict[str, bytes]


class _Store:
    """What the process beside has written so far."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._offset = 0
        self._ready: Dict[str, bytes] = {}

    def take(self, name: str) -> Optional[CodeType]:
        """The code of the module *name*; None when it is not there yet."""
        if name not in self._ready:
            self._read()
        found = self._ready.pop(name, None)
        return None if found is None else marshal.loads(found)  # noqa: S302 - written by a fork of this process

    def _read(self) -> None:
        size = os.fstat(self.descriptor).st_size
        data = os.pread(self.descriptor, size - self._offset, self._offset)
        at = 0
        while len(data) - at >= _HEAD.size:
            name_size, code_size = _HEAD.unpack_from(data, at)
            begin = at + _HEAD.size
            end = begin + name_size + code_size
            if end > len(data):
                break
            self._ready[data[begin : begin + name_size].decode()] = data[begin + name_size : end]
            at = end
        self._offset += at


_store: Optional[_Store] = None


def begin() -> None:
    """Have the modules compiled, where this agent was started from its archive and the system can do that."""
    global _store
    found = _loader()
    if found is None or not hasattr(os, "memfd_create"):
        return
    try:
        descriptor = os.memfd_create("provision-agent")
        pid = os.fork()
    except OSError:
        return  # then the agent compiles them itself
    if pid == 0:
        try:
            _compile(found, descriptor)
        finally:
            os._exit(0)
    _store = _Store(descriptor)


def descriptors() -> Tuple[int, ...]:
    """What a child needs to `use` it."""
    return () if _store is None else (_store.descriptor,)


def use() -> None:
    """From now on, take the code of modules from there, as far as it is."""
    found = _loader()
    if _store is not None and found is not None:
        found.early = _store.take  # type: ignore[attr-defined]


def end() -> None:
    """What was to be loaded is. Safe to repeat."""
    global _store
    if _store is not None:
        found = _loader()
        if found is not None:
            vars(found).pop("early", None)
        os.close(_store.descriptor)
        _store = None


def _loader() -> Optional[_Loader]:
    return cast(Optional[_Loader], loading.finder())


def _compile(found: _Loader, descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for each in (0, 1, 2):
        os.dup2(nothing, each)  # who reads what `start` says does not wait for this
    os.nice(5)  # where there is one core only, `start` comes first
    for file in _wanted(found):
        base = file[: -len("/__init__.py")] if file.endswith("/__init__.py") else file[: -len(".py")]
        name = base.replace("/", ".").encode()
        code = marshal.dumps(compile(found.files[file].decode(), f"{found.path}/{file}", "exec"))
        data = _HEAD.pack(len(name), len(code)) + name + code
        while data:
            data = data[os.write(descriptor, data) :]


def _wanted(found: _Loader) -> Iterator[str]:
    for room in ROOMS:
        yield from (file for file in found.files if file.startswith(f"provision_agent/{room}/"))
