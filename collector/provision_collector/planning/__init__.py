"""What can be known before, beside and after a run: plans, sources, locks, audits, diagnoses. Changes nothing by itself."""

from .estimate import Estimate, estimate_of
from .lock import apply_lock, lock_path, make_lock, read_lock
from .survey import Source, Standing, Survey, survey
from .wanted import wanted_profile

__all__ = [
    "Estimate",
    "Source",
    "Standing",
    "Survey",
    "apply_lock",
    "estimate_of",
    "lock_path",
    "make_lock",
    "read_lock",
    "survey",
    "wanted_profile",
]
