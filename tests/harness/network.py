"""Two network namespaces with a router between them that drops every packet on command, without a word to either side.

Needs the right to make namespaces. Nothing outside of them changes, and they are gone with the processes that hold them.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

CLONE_NEWNET = 0x40000000
Side = Literal["here", "instance"]

_LIBC = ctypes.CDLL(None, use_errno=True)
_SUBNETS: dict[Side, str] = {"here": "10.91.1", "instance": "10.91.2"}


class Network:
    """A context manager; `host` is the instance's address as this side sees it."""

    host = f"{_SUBNETS['instance']}.2"

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def why_not() -> str | None:
        """Why there can be none on this machine; None if there can."""
        made = subprocess.run(
            ["unshare", "-n", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
        return f"no network namespaces: {made.stderr.strip()}" if made.returncode else None

    def __enter__(self) -> Network:
        for name in ("router", *_SUBNETS):
            self._holders[name] = subprocess.Popen(
                ["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        for holder in self._holders.values():
            assert holder.stdout is not None
            holder.stdout.readline()  # it is in its namespace
        for side, subnet in _SUBNETS.items():
            peer = str(self._holders[side].pid)
            self._ip("router", f"link add {side} type veth peer name router netns {peer}")
            for where, link, address in (("router", side, f"{subnet}.1"), (side, "router", f"{subnet}.2")):
                self._ip(where, f"address add {address}/24 dev {link}")
                self._ip(where, f"link set {link} up")
            self._ip(side, "link set lo up")
            self._ip(side, f"route add default via {subnet}.1")
        self._run("router", ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])
        return self

    def __exit__(self, *error: object) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.communicate()

    @contextmanager
    def inside(self, side: Side) -> Iterator[None]:
        """This thread, and every process that it starts, is at *side* of the network."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self._holders[side].pid}/ns/net", os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(home)
            os.close(there)
            os.close(home)

    def drop(self) -> None:
        """Let no packet through, in either direction."""
        for subnet in _SUBNETS.values():
            self._ip("router", f"route add blackhole {subnet}.2/32")

    def flow(self) -> None:
        """Let packets through again."""
        for subnet in _SUBNETS.values():
            self._ip("router", f"route del blackhole {subnet}.2/32")

    def _ip(self, where: str, words: str) -> None:
        self._run(where, ["ip", *words.split()])

    def _run(self, where: str, command: list[str]) -> None:
        enter = ["nsenter", "-t", str(self._holders[where].pid), "-n"]
        subprocess.run([*enter, *command], check=True, timeout=10, stdin=subprocess.DEVNULL)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
