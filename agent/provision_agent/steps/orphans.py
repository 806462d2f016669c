"""Installers and checkouts whose agent was killed: they live on, and would work on the same folders as the next one.

Each is started with a mark in its environment; whoever carries this workspace's mark and does not descend from this
process is one of them.
"""

from __future__ import annotations

import os
import threading
from typing import Dict, Iterator

from ..host.detach import Identity
from ..run.context import Context
from .remove_tree import lineage

END_S = 10.0
_MARK = "PROVISION_WORKS_IN"
_ending = threading.Lock()


def mark(context: Context) -> Dict[str, str]:
    """What a child that writes into the workspace has in its environment."""
    return {_MARK: context.workspace}


def end(context: Context) -> None:
    """End what an earlier agent of this workspace left running; the same agent's own children are left alone."""
    for pid in _marked(context):
        if os.getpid() not in lineage(pid):
            Identity.of(pid).end(within_s=context.bounded(END_S))


def end_once(context: Context) -> None:
    """As `end`, the first time in a run; whoever comes meanwhile waits until that is done."""
    with _ending:
        mine = object()
        if context.said.setdefault(_MARK, mine) is mine:
            end(context)


def _marked(context: Context) -> Iterator[int]:
    wanted = f"{_MARK}={context.workspace}".encode("utf-8", "surrogateescape")
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    yield int(entry)
        except OSError:
            continue  # another user's process, or it has ended
