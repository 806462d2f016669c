"""Start or join a run as `run.start` does, and remember what it says about the machine when it has ended.

The library's front door, and that of the commands.
"""

from __future__ import annotations

from functools import partial, update_wrapper

from ..files.buckets import sign
from ..run import start as of_one
from .scorecard import record

start = update_wrapper(partial(of_one.start, on_end=record, sign=sign), of_one.start)
attach = update_wrapper(partial(of_one.attach, on_end=record, sign=sign), of_one.attach)
