"""Profiles from what people have already: workflows, manifests, scripts, snapshots, archives, running instances.

Nothing is dropped in silence: what a profile cannot say, or what has no source, is named in `Converted.unresolved`.
"""

from .converted import Converted, literal
from .files import from_file
from .workflow import from_workflows

__all__ = ["Converted", "from_file", "from_workflows", "literal"]
