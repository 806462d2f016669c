"""Exact local copies of remote files: the copy's own length is the record of what has arrived."""

from __future__ import annotations

from .follow import FollowSession
from .mirror import Mirror, MirrorBusyError, MirrorFullError
from .session import FolderGoneError, LinkLostError, Listener
from .state import MirrorState, Position

__all__ = [
    "FolderGoneError",
    "FollowSession",
    "LinkLostError",
    "Listener",
    "Mirror",
    "MirrorBusyError",
    "MirrorFullError",
    "MirrorState",
    "Position",
]
