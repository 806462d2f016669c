"""Who listens on a port of this machine, from /proc.

Where /proc is missing or another user's process may not be looked into, the answer is "unknown", never a guess.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from typing import Dict, Iterable, List, NamedTuple, Optional, Set

_LISTEN = "0A"


class Listener(NamedTuple):
    """A listening TCP socket; `pids` holds the processes that have it, empty when that cannot be known."""

    address: str
    pids: "frozenset[int]"


def listeners(host: str, port: int) -> List[Listener]:
    """Sockets that would answer a connection to *host* and *port* on this machine; the exact address comes first.

    A `Listener` without pids stands for "somebody answers" where there is no /proc.
    """
    wanted = {_canonical(address) for address in _addresses(host)}
    found = {inode: address for inode, address in _listening(port).items() if _answers(address, wanted)}
    if not found and not os.path.exists("/proc/net/tcp"):
        return [Listener(host, frozenset())] if _somebody_answers(host, port) else []
    pids = _pids_of(found)
    exact_first = sorted(found.items(), key=lambda item: item[1] not in wanted)
    return [Listener(address, frozenset(pids.get(inode, ()))) for inode, address in exact_first]


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
        fields = _stat(pid)
        if pid == root or (fields is not None and fields[3] == str(root)):
            return True
        if fields is None:
            return False
        pid = int(fields[1])
    return False


def describe(pid: int) -> str:
    """The process as people know it, ``python main.py (pid 7)``; arguments beyond these may hold secrets."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return f"pid {pid}"
    shown = [os.path.basename(words[0])] + [word for word in words[1:2] if word and not word.startswith("-")]
    return f"{' '.join(shown)} (pid {pid})"


def _listening(port: int) -> Dict[str, str]:
    """Address of every listening socket on *port*, by its inode."""
    found: Dict[str, str] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            address, _, hex_port = row[1].partition(":")
            if row[3] == _LISTEN and int(hex_port, 16) == port:
                found[row[9]] = _canonical(_address(address))
    return found


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
    links = {f"socket:[{inode}]": inode for inode in inodes}
    owners: Dict[str, List[int]] = {}
    for entry in os.listdir("/proc") if links else []:
        if not entry.isdigit():
            continue
        try:
            descriptors = os.listdir(f"/proc/{entry}/fd")
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                inode = links.get(os.readlink(f"/proc/{entry}/fd/{descriptor}"))
            except OSError:
                continue
            if inode is not None:
                owners.setdefault(inode, []).append(int(entry))
    return owners


def _stat(pid: int) -> Optional[List[str]]:
    """Fields of /proc/<pid>/stat after the name: state, parent, group, session, …"""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _somebody_answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host or "localhost", port), timeout=1.0):
            return True
    except OSError:
        return False
