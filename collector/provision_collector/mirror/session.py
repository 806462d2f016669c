"""What every session tells while it feeds mirrors, and the ways in which one ends."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from provision_agent.contract import frames
from provision_agent.contract.failures import FAILURES

from ..errors import HostUnreachableError, ProtocolFaultError, UsageError
from .mirror import FileFacts, Mirror
from .wire import Begun, Holders

MAX_GARBLED = 3
STEADY_AFTER_S = 10.0
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


class GarbledError(LinkLostError):
    """The session ended because nobody can understand what came. Once may be noise of a login shell; more is no accident."""


class GarbledSessions:
    """Counts sessions that ended garbled soon after they began: `MAX_GARBLED` in a row are the instance's fault."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def count(self, error: Exception, *, lasted_s: float) -> None:
        """A session ended by *error*.

        Args:
            error: Counts only when what arrived was garbled.
            lasted_s: Seconds since the session began: a long one was a good one before.

        Raises:
            ProtocolFaultError: that was once too often in a row.
        """
        if not isinstance(error, GarbledError):
            return
        self._in_a_row = self._in_a_row + 1 if lasted_s < STEADY_AFTER_S else 1
        if self._in_a_row >= MAX_GARBLED:
            raise ProtocolFaultError(f"{error}, {self._in_a_row} times in a row")


class FolderGoneError(HostUnreachableError):
    """The instance is there, and the run's folder on it is not: somebody deleted it, or its volume is not mounted."""

    def __init__(self, folder: str) -> None:
        super().__init__(
            f"the folder of the run is gone from the instance{folder and f': `{folder}`'}",
            hint="`provision up` with the same profile provisions it anew; what is on the disk is verified, not fetched again",
            cause=frames.FOLDER_GONE,
        )


class AgentChangedError(HostUnreachableError):
    """The agent's file on the instance is not the one that was sent, and was not run."""

    def __init__(self, said: str) -> None:
        super().__init__(
            f"the agent did not start: {said}", hint=FAILURES["agent_changed"].hint, cause="agent_changed"
        )


class Listener:
    """What a session tells, on the event loop, after the bytes are written; override what is of interest.

    The session waits for each answer: who needs the disk goes to a thread meanwhile.
    """

    async def on_bytes(self, mirror: Mirror, new: bytes) -> None:
        """The mirror has grown by *new*, which stands at its end."""

    async def on_status(self, status: Holders) -> None:
        """Who works on the instance, for runs of ours."""

    async def on_begin(self, mirror: Mirror, begun: Begun) -> None:
        """How the log stands to the mirror."""

    async def on_generation(self, mirror: Mirror, facts: FileFacts) -> None:
        """The log began anew, or was born, as the file with *facts*; the bytes so far are an ended part of the mirror."""

    async def on_gap(self, mirror: Mirror, lost_bytes: int | None) -> None:
        """So many bytes, or nobody knows how many, cannot be had any more."""

    async def on_beat(self, unread: Sequence[int]) -> None:
        """The other side lives; the logs hold so many bytes that are not in the mirrors."""


def edited(mirror: Mirror) -> UsageError:
    """The error for a *mirror* that cannot be continued."""
    return UsageError(
        f"the mirror `{mirror.path}` is not a beginning of the remote file: one of the two was edited or replaced",
        hint="move the mirror away (with its `.state.json`) and run the same command again: it is fetched anew",
    )


def unreadable(path: str, obstacle: str) -> UsageError:
    """The error for a log at *path* that can never be read, because of *obstacle*, one of `frames.OBSTACLES`."""
    if obstacle == frames.IS_DENIED:
        return UsageError(
            f"`{path}` on the instance may not be read by this user",
            hint="log in as a user who may (`--user root`), or give this one the right to read it",
        )
    what = "a directory" if obstacle == frames.IS_FOLDER else "a pipe, a socket or a device"
    return UsageError(
        f"`{path}` on the instance is {what}, and not a file",
        hint=f"give the log file itself; on the instance, `ls -ld {shlex.quote(path)}` shows what is there",
    )
