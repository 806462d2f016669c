"""``extend``: put off the end of this instance, for whoever needs it longer than its profile says."""

from __future__ import annotations

from typing import List

from ..contract.failures import Failure, disk_failure
from ..contract.lifetime_told import ENDED, ENDING, ExtendAnswer, ExtendRequest
from ..lifetime.begin import told_of
from ..lifetime.records import LifetimeFiles
from ..run.answering import answer
from .query import workspaces


def extend_main(argv: List[str]) -> int:
    """``extend``: an `ExtendRequest` on stdin; when the instance is ended now."""
    return answer(ExtendRequest, _extend)


def _extend(request: ExtendRequest) -> ExtendAnswer:
    for workspace in workspaces(request.workspace):
        files = LifetimeFiles(workspace.root)
        told, order = told_of(workspace.root), files.order()
        is_known = request.run is None or request.run in workspace.run_ids()
        if told is None or order is None or order.lifetime is None or not is_known:
            continue
        if told.state in (ENDING, ENDED):
            raise Failure("conflict", "the instance is being ended already", case="ending_already")
        if not told.is_running:
            raise Failure(
                "missing", "nothing measures the time of this instance any more", case="not_measured"
            )
        try:
            files.extend(request.for_s)
        except OSError as error:
            raise disk_failure(error, workspace.root) from None
        return ExtendAnswer(told_of(workspace.root) or told)
    raise Failure("missing", "no profile with a `lifetime` was run here", case="no_lifetime")
