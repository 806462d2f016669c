"""One profile on many instances at once."""

from ..pool.fleet.fleet_state import Member, fleet_names, read_members
from ..pool.fleet.targets import Target, read_targets
from ..pool.fleet.up import Fleet, Rules

__all__ = ["Fleet", "Member", "Rules", "Target", "fleet_names", "read_members", "read_targets"]
