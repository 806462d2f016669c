"""What every session tells while it feeds mirrors, and the ways in which one ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provision_agent.contract import frames

from ..errors import HostUnreachableError, UsageError
from .mirror import Mirror

HELLO_TIMEOUT_S = 30.0
"""Until the first word; longer than a heartbeat, because login shells of rented images are slow."""


class LinkLostError(Exception):
    """The session ended without being told to; `cause` says how it looked from here.

    `was_greeted` is False when the command was started and never said a word.
    """

    def __init__(self, cause: str, *, was_greeted: bool = True) -> None:
        super().__init__(cause)
        self.cause = cause
        self.was_greeted = was_greeted


class FolderGoneError(HostUnreachableError):
    """The instance is there, and the run's folder on it is not: somebody deleted it, or its volume is not mounted."""

    def __init__(self, folder: str) -> None:
        super().__init__(
            f"the folder of the run is gone from the instance{folder and f': `{folder}`'}",
            hint="`provision up` with the same profile provisions it anew; what is on the disk is verified, not fetched again",
            cause=frames.FOLDER_GONE,
        )


class Listener:
    """What a session tells, on the event loop, after the bytes are on the disk; override what is of interest."""

    def on_bytes(self, mirror: Mirror) -> None:
        """The mirror has grown."""

    def on_status(self, status: dict[str, Any]) -> None:
        """Who works on the instance, for runs of ours."""

    def on_begin(self, mirror: Mirror, facts: Mapping[str, Any]) -> None:
        """How the log stands to the mirror: ``missing``, ``unread`` bytes, ``before_bytes`` in older files."""

    def on_generation(self, mirror: Mirror, facts: Mapping[str, Any]) -> None:
        """The log began anew, or was born; the bytes so far are an ended part of the mirror."""

    def on_gap(self, mirror: Mirror, lost_bytes: int | None) -> None:
        """So many bytes, or nobody knows how many, cannot be had any more."""

    def on_beat(self, unread: Sequence[int]) -> None:
        """The other side lives; the logs hold so many bytes that are not in the mirrors."""


def edited(mirror: Mirror) -> UsageError:
    """The error for a *mirror* that cannot be continued."""
    return UsageError(
        f"the mirror `{mirror.path}` is not a beginning of the remote file: one of the two was edited or replaced",
        hint="move the mirror away (with its `.state.json`) and run the same command again: it is fetched anew",
    )
