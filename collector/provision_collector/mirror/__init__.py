"""Exact local copies of remote files: the copy's own length is the record of what has arrived."""

from __future__ import annotations

from .follow import FollowSession
from .mirror import RESERVE_BYTES, FileFacts, Mirror, MirrorBusyError, MirrorFullError
from .pace import Pace, check_events, heartbeat_s
from .session import AgentChangedError, FolderGoneError, GarbledSessions, LinkLostError, Listener
from .state import Gap, MirrorState, Position
from .wire import Begun, Holders

__all__ = [
    "RESERVE_BYTES",
    "AgentChangedError",
    "Begun",
    "FileFacts",
    "FolderGoneError",
    "FollowSession",
    "Gap",
    "GarbledSessions",
    "Holders",
    "LinkLostError",
    "Listener",
    "Mirror",
    "MirrorBusyError",
    "MirrorFullError",
    "MirrorState",
    "Pace",
    "Position",
    "check_events",
    "heartbeat_s",
]
