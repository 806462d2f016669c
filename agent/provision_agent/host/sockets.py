"""Who listens on a port of this machine, from /proc.

Where /proc is missing or another user's process may not be looked into, the answer is "unknown", never a guess.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from . import process_stat
from .detach import argv_of

_LISTEN = "0A"
_SOCKET = "socket:["
_PLAIN_FLAGS = ("-u", "-s", "-B", "-E", "-I", "-O")
"""Flags of python that take no value: what follows one is the script."""


class Listener(NamedTuple):
    """A listening TCP socket; `pids` holds the processes that have it, empty when that cannot be known."""

    address: str
    pids: "frozenset[int]"


def listeners(host: str, port: int) -> List[Listener]:
    """Sockets that would answer a connection to *host* and *port* on this machine; the exact address comes first.

    A `Listener` without pids stands for "somebody answers" where there is no /proc.
    """
    wanted = {_canonical(address) for address in _addresses(host)}
    found = {row.inode: row.address for row in _table() if row.port == port and _answers(row.address, wanted)}
    if not found and not os.path.exists("/proc/net/tcp"):
        return [Listener(host, frozenset())] if _somebody_answers(host, port) else []
    pids = _pids_of(found)
    exact_first = sorted(found.items(), key=lambda item: item[1] not in wanted)
    return [Listener(address, frozenset(pids.get(inode, ()))) for inode, address in exact_first]


def ports_of(pid: int) -> List[int]:
    """The TCP ports on which the process *pid* listens, in order; empty when that cannot be known."""
    inodes = set(_sockets_of(str(pid)))
    return sorted({row.port for row in _table() if row.inode in inodes})


def everyone() -> Dict[int, List[int]]:
    """Every port on which somebody listens here, with the processes that do, as far as they can be known; the oldest first."""
    rows = list(_table())
    pids = _pids_of(row.inode for row in rows)
    found: Dict[int, Set[int]] = {}
    for row in rows:
        found.setdefault(row.port, set()).update(pids.get(row.inode, ()))
    return {port: sorted(found[port], key=_age) for port in sorted(found)}


def is_local(host: str) -> bool:
    """True when *host* means this machine for certain."""
    if host in ("localhost", ""):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def belongs_to(pid: int, root: int) -> bool:
    """True when *pid* is *root*, descends from it, or lives in its session."""
    seen: Set[int] = set()
    while pid > 1 and pid not in seen:
        seen.add(pid)
        found = process_stat.read(pid)
        if pid == root or (found is not None and found.session == root):
            return True
        if found is None:
            return False
        pid = found.parent
    return False


def parent_of(pid: int) -> Optional[int]:
    """The process that started *pid*, or has taken it over; None when it is gone."""
    found = process_stat.read(pid)
    return None if found is None else found.parent


def describe(pid: int) -> str:
    """The process as people know it, ``python main.py (pid 7)``; arguments beyond these may hold secrets."""
    words = argv_of(pid)
    if not words:
        return f"pid {pid}"
    rest = [word for word in words[1:] if word not in _PLAIN_FLAGS]
    shown = [os.path.basename(words[0])] + [word for word in rest[:1] if word and not word.startswith("-")]
    told = " ".join(shown).encode("utf-8", "replace").decode()
    return f"{told} (pid {pid})"


def _age(pid: int) -> Tuple[int, int]:
    """Sorts the oldest process first: a number is given again when all have been."""
    found = process_stat.read(pid)
    return (sys.maxsize if found is None else found.start_ticks), pid


class _Row(NamedTuple):
    inode: str
    address: str
    port: int


def _table() -> Iterator[_Row]:
    """Every listening TCP socket of this machine."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            address, _, hex_port = row[1].partition(":")
            if row[3] == _LISTEN:
                yield _Row(row[9], _canonical(_address(address)), int(hex_port, 16))


def _address(digits: str) -> str:
    """The kernel prints addresses as 32-bit words in the machine's own byte order."""
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def _canonical(address: str) -> str:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _addresses(host: str) -> Set[str]:
    try:
        return {
            str(info[4][0]) for info in socket.getaddrinfo(host or "localhost", None, type=socket.SOCK_STREAM)
        }
    except OSError:
        return set()


def _answers(address: str, wanted: Iterable[str]) -> bool:
    """A socket on every address answers for all; a v6 one usually for v4 too. One asked for "every" meets them all."""
    everywhere = {"0.0.0.0", "::"}  # noqa: S104
    return address in everywhere or address in wanted or bool(everywhere.intersection(wanted))


def _pids_of(inodes: Iterable[str]) -> Dict[str, List[int]]:
    wanted = set(inodes)
    owners: Dict[str, List[int]] = {}
    for entry in os.listdir("/proc") if wanted else []:
        if entry.isdigit():
            for inode in wanted.intersection(_sockets_of(entry)):
                owners.setdefault(inode, []).append(int(entry))
    return owners


def _sockets_of(pid: str) -> Iterator[str]:
    """The inode of every socket that the process has."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith(_SOCKET):
            yield target[len(_SOCKET) : -1]


def _somebody_answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host or "localhost", port), timeout=1.0):
            return True
    except OSError:
        return False
