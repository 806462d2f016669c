"""Exact local copies of remote files: the copy's own length is the record of what has arrived."""

from __future__ import annotations

from .follow import FollowSession, LinkLostError
from .mirror import Mirror, MirrorBusyError
from .state import MirrorState

__all__ = ["FollowSession", "LinkLostError", "Mirror", "MirrorBusyError", "MirrorState"]
