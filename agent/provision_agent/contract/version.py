"""Versions of what the halves write, and the form of a run's id. Pure; runs on Python 3.6 as the other parts of the follower."""

FORMAT = 2
"""Of events, status, state, messages and the follow hello; a reader takes this one and the one before."""

SUPPORTED_FORMATS = (FORMAT - 1, FORMAT)

RUN_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
