"""The uploads of a plan: files that whoever ordered the run sends beside it, in sessions of their own.

Another process receives and verifies them; this step says which are wanted here, tells how far they are, and counts them.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Dict, Optional, Sequence

from ..contract.failures import Failure
from ..contract.plan_files import Upload
from ..contract.steps import VERIFIED
from ..files.records import DONE, FAILED, LEFT, LISTED, PROGRESS, UploadLog, UploadTold, WantedItems
from ..run.context import Context
from ..run.tally import Tally
from ..run.workspace import Workspace

LOOK_EVERY_S = 0.2
SILENT_AFTER_S = 12.0
"""Whoever sends is heard every few seconds."""
SENT_WITHIN_S = 900.0
"""How long a run waits for a sender, from its start or from the last word of one."""
NOBODY = (
    "nobody sends it now: `provision attach` on the machine that has it, or the same `provision up`, goes on"
)


class Uploads:
    """The uploads of one run, as it does them; followed in a thread of their own."""

    def __init__(
        self, ordered: Sequence[Upload], wanted: Sequence[Upload], context: Context, tally: Tally
    ) -> None:
        """Nothing happens before `start`.

        Args:
            ordered: All of the plan, as whoever ordered the run has it.
            wanted: Those that the run does here.
        """
        workspace = Workspace(context.workspace)
        self._context = context
        self._tally = tally
        here = [replace(item, when=None) for item in wanted]
        self._open: Dict[str, Upload] = {
            str(at): item for at, item in enumerate(ordered) if replace(item, when=None) in here
        }
        """By their position, as whoever sends them calls them."""
        self._started = time.monotonic()
        self._log = UploadLog.of(workspace, context.run_id)
        self._wanted = WantedItems(workspace, context.run_id)
        self._settled = threading.Condition()
        self._heard: Optional[int] = None
        self._heard_at = time.monotonic()
        self._is_waiting = False

    def start(self) -> None:
        """Say what is wanted here, and follow it from now on. Raises OSError."""
        self._wanted.say(tuple(self._open))
        if self._open:
            self._tally.start("uploads")
            threading.Thread(target=self._follow, name="uploads", daemon=True).start()

    def wait(self, level: str) -> None:
        """Until all of *level* are there or cannot be had, or the run is over."""
        with self._settled:
            while any(item.level == level for item in self._open.values()) and not self._context.is_over():
                self._settled.wait(LOOK_EVERY_S)

    def _follow(self) -> None:
        while self._open and not self._context.is_over():
            for told in self._log.read():
                self._take(told)
            self._look_for_a_sender()
            self._context.wait(LOOK_EVERY_S)

    def _look_for_a_sender(self) -> None:
        heard, now = self._log.heard(), time.monotonic()
        if heard != self._heard:
            self._heard, self._heard_at, self._is_waiting = heard, now, False
        silent_s = now - self._heard_at
        if silent_s > SILENT_AFTER_S and not self._is_waiting:
            self._say_waiting()
        if silent_s > SENT_WITHIN_S:
            message = f"nobody has sent it for {silent_s / 60:.0f} minutes"
            for position in list(self._open):
                self._fail(position, Failure("timed_out", message, case="nobody_sends"))

    def _say_waiting(self) -> None:
        self._is_waiting = True
        for item in list(self._open.values()):
            self._report("upload_waiting", item, reason=NOBODY)

    def _take(self, told: UploadTold) -> None:
        if told.what == LEFT:
            self._say_waiting()
        item = self._open.get(told.item)
        if item is None:
            return
        if told.what == LISTED:
            self._report("upload_started", item, files=told.files, total_bytes=told.total_bytes)
        elif told.what == PROGRESS:
            facts = {"bytes": told.bytes, "total_bytes": told.total_bytes, "bytes_per_s": told.bytes_per_s}
            self._report("upload_progress", item, **facts)
        elif told.what == FAILED:
            self._fail(told.item, Failure(told.class_, told.message, case=told.case, about=told.about))
        elif told.what == DONE:
            self._finish(told)

    def _finish(self, told: UploadTold) -> None:
        item = self._open[told.item]
        if told.files and not told.sent_bytes and told.bytes:
            self._report("upload_skipped", item, reason=VERIFIED)
        else:
            duration_s = round(time.monotonic() - self._started, 3)
            counts = {"files": told.files, "bytes": told.bytes, "sent_bytes": told.sent_bytes}
            self._report("upload_finished", item, duration_s=duration_s, **counts)
        self._tally.succeed("uploads", item.key)
        self._settle(told.item)

    def _fail(self, position: str, failure: Failure) -> None:
        item = self._open[position]
        self._report("upload_failed", item, **failure.as_fields())
        self._tally.fail("uploads", item.key, item.level, failure, is_reported=True)
        self._settle(position)

    def _settle(self, position: str) -> None:
        with self._settled:
            del self._open[position]
            self._settled.notify_all()

    def _report(self, event: str, item: Upload, **fields: object) -> None:
        self._context.report(event, item=item.label, key=item.key, level=item.level, **fields)
