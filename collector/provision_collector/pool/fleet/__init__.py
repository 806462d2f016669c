"""One profile on many instances at once."""

from .fleet_state import Member, fleet_names, read_members
from .targets import Target, read_targets
from .up import Fleet, Rules

__all__ = ["Fleet", "Member", "Rules", "Target", "fleet_names", "read_members", "read_targets"]
