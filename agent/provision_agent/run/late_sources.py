"""Signed addresses that have stopped working: whoever has the buckets' keys is asked for new ones, for as long as any is wanted.

One thread asks for all files of a run. Somebody may be there to answer, or come later: each file waits within its own limit.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Callable, FrozenSet, List, Sequence, Set

from ..contract.buckets import MAX_ADDRESS_CHARS, MAX_ASKED, SignedAnswer, SignedRequest, SignedSource
from ..contract.messages import read_message
from ..contract.parsing import ParseError, to_json
from . import answering
from .context import Report
from .mailbox import Mailbox, hand_over
from .workspace import Workspace

MAX_BYTES = MAX_ASKED * 2 * MAX_ADDRESS_CHARS


def sources_given_main(argv: List[str]) -> int:
    """``sources_given``: hand the addresses of a `SignedRequest` to the run that waits for them."""
    return answering.answer(SignedRequest, _give)


def pipe_of(workspace: Workspace, run_id: str) -> str:
    """Where a run waits."""
    return workspace.run_file(run_id, "sources.pipe")


def _give(request: SignedRequest) -> SignedAnswer:
    path = pipe_of(Workspace(request.workspace), request.run)
    return SignedAnswer(taken=hand_over(path, json.dumps(to_json(request)).encode() + b"\n"))


class LateSources:
    """Asks for new addresses while any is wanted.

    Args:
        path: Where the pipe is made, and removed again.
        report: Writes the events.
        take: Given the addresses that came.
        is_over: Asked while waiting; True gives up.
    """

    def __init__(
        self,
        path: str,
        report: Report,
        take: Callable[[Sequence[SignedSource]], None],
        is_over: Callable[[], bool],
    ) -> None:
        self._path = path
        self._report = report
        self._take = take
        self._is_over = is_over
        self._wanted: Set[str] = set()
        self._lock = threading.Lock()
        self._is_asking = False

    def want(self, url: str) -> None:
        """A new address of *url* is wanted from now on."""
        with self._lock:
            self._wanted.add(url)
            if self._is_asking:
                return
            self._is_asking = True
        threading.Thread(target=self._ask, name="late-sources", daemon=True).start()

    def give_up(self, url: str) -> None:
        """Nobody wants a new address of *url* any more."""
        with self._lock:
            self._wanted.discard(url)

    def _ask(self) -> None:
        while True:
            try:
                with Mailbox(self._path, max_bytes=MAX_BYTES) as mailbox:
                    self._ask_through(mailbox)
            except OSError:
                self._give_all_up()  # no pipe can be made there: nobody can answer
            with self._lock:
                if not self._wanted or self._is_over():
                    self._is_asking = False
                    return

    def _ask_through(self, mailbox: Mailbox) -> None:
        asked: FrozenSet[str] = frozenset()
        while not self._is_over():
            with self._lock:
                wanted = frozenset(sorted(self._wanted)[:MAX_ASKED])
            if not wanted:
                return
            if wanted - asked:
                asked = wanted
                self._report("sources_needed", urls=sorted(wanted), request=os.urandom(8).hex())
            line = mailbox.line()
            if line:
                self._receive(line)

    def _receive(self, line: bytes) -> None:
        try:
            given = read_message(SignedRequest, line).sources
        except ParseError:
            return
        with self._lock:
            mine = [source for source in given if source.url in self._wanted]
            self._wanted.difference_update(source.url for source in mine)
        self._take(mine)
        self._report("sources_given", count=len(mine))

    def _give_all_up(self) -> None:
        with self._lock:
            self._wanted.clear()
