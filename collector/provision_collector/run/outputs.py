"""Bring the outputs of a run home, beside the watching of it, and name at its end what is not here.

Which files are wanted says this side's own plan, or its record of the run, or, where it has neither, the instance's; they
go into one folder here and nowhere else. Nothing is deleted, here or there.
"""

from __future__ import annotations

import asyncio
import posixpath
import time
from collections.abc import Sequence
from contextlib import suppress

from provision_agent.contract.failures import Failure
from provision_agent.contract.file_messages import FAILED, FILE, FileTold, SendRequest, SettledFile, items_of
from provision_agent.contract.parsing import ParseError, parse, to_json
from provision_agent.contract.plan_files import Output
from provision_agent.contract.plan_json import expand, map_strings

from ..errors import ProtocolFaultError, ProvisionError
from ..files.local_tree import LocalTree
from ..files.receiver import Receiver
from ..files.session import FileSession
from ..instance import Connection, Emit, Link
from ..storage import in_thread
from .dispatch import Dispatch
from .outcome import OutputsHome
from .outputs_told import OutputsTold
from .sessions import in_sessions
from .spec import OutputsHere

LOOKS_AT_THE_END = 3
"""So many looks there after the verdict: a file that nobody announced must look the same twice."""
STILL_FOR_S = 30.0
"""At its end a run waits for its outputs as long as bytes come, and so long after the last one."""
FINISH_WITHIN_S = 3600.0
"""At most: a service may go on making files for ever."""
SHOWN = 5
MOST_NAMED = 100


def bound(outputs: Sequence[Output], *, workspace: str, run: str) -> tuple[Output, ...]:
    """*outputs* with their variables filled in, as the instance fills them in for all else; its home is in no path of theirs."""
    values = {"workspace": workspace, "run_id": run, "home": "~"}
    return tuple(
        parse(Output, map_strings(to_json(output), lambda text: expand(text, values)), "outputs")
        for output in outputs
    )


class Outputs:
    """The outputs of one run. `begin`, and they come beside the watching; `finish` when the run has its verdict."""

    def __init__(
        self, here: OutputsHere | None, owner: str, dispatch: Dispatch, link: Link, emit: Emit
    ) -> None:
        self._here = here
        self._owner = owner
        self._dispatch = dispatch
        self._link = link
        self._emit = emit
        self._trees: dict[str, LocalTree] = {}
        self._wanted: tuple[Output, ...] = ()
        self._receiver: Receiver | None = None
        self._failed: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._moved_bytes = 0
        self._moved_at = 0.0
        self._told = OutputsTold(emit, self._count_left)
        self._telling: asyncio.Task[None] | None = None
        self._is_closed = False

    async def begin(self) -> None:
        """Take the folders, and begin to fetch.

        Raises:
            UsageError: a folder holds the files of another instance. LocalMachineError: it cannot be used.
            ProtocolFaultError: the instance tells outputs that cannot be.
        """
        if self._here is None:
            return
        try:
            self._wanted = bound(
                self._dispatch.told.outputs, workspace=self._dispatch.workspace, run=self._dispatch.run
            )
        except ParseError as error:
            raise ProtocolFaultError(error) from None
        if not self._wanted:
            self._emit(
                "warning", message="the run has no `outputs`: nothing comes to the folder of `--outputs`"
            )
            return
        for number, output in enumerate(self._wanted):
            name = posixpath.basename(posixpath.normpath(output.path))
            tree = LocalTree(
                self._here.folder / output.to,
                owner=f"{self._owner}, workspace {self._dispatch.workspace}",
                also=self._owner,
                max_bytes=self._here.max_bytes,
                single=name,
            )
            await in_thread(tree.open)
            self._trees[str(number)] = tree
        self._task = asyncio.create_task(self._fetch(), name="outputs")
        self._telling = asyncio.create_task(self._told.tell(), name="outputs told")

    async def finish(self) -> None:
        """Wait until what is closed there is here, as long as bytes come; name what is not."""
        if self._task is None:
            return
        self._moved_at = ended_at = time.monotonic()
        began: tuple[Receiver | None, int] = (None, 0)
        while not self._task.done() and time.monotonic() - self._moved_at < STILL_FOR_S:
            if time.monotonic() - ended_at > FINISH_WITHIN_S:
                break
            receiver = self._receiver
            if receiver is not None and receiver is not began[0]:
                began = (receiver, receiver.looks)
            if self._link.connection is None and not await self._is_reached_again(receiver, began[1]):
                break
            if receiver is not None and receiver.looks >= began[1] + LOOKS_AT_THE_END and receiver.is_idle:
                break
            await asyncio.sleep(0.1)
        await self.close()

    async def _is_reached_again(self, receiver: Receiver | None, looks: int) -> bool:
        """Whether there is a connection again. What is known to be there is waited for as long as contact may be lost."""
        has_more = receiver is None or not receiver.is_idle or receiver.looks <= looks
        with suppress(ProvisionError, TimeoutError):
            async with asyncio.timeout(FINISH_WITHIN_S if has_more else STILL_FOR_S):
                await self._link.connected()
            self._moved_at = time.monotonic()
            return True
        return False

    async def close(self) -> None:
        """Stop, and say what is not here. Safe to repeat."""
        for task in (self._task, self._telling):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        for tree in self._trees.values():
            await in_thread(tree.close)
        if self._task is None or self._is_closed:
            return
        self._is_closed = True
        self._told.flush()
        self._told.finish()
        if missing := self._missing:
            shown = "; ".join(
                why if path in why else f"`{path}`: {why}" for path, why in list(missing.items())[:SHOWN]
            )
            more = f"; and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            self._emit("warning", message=f"outputs that are not home: {shown}{more}")

    async def _fetch(self) -> None:
        await in_sessions(
            self._link, self._emit, self._session, what="outputs", moved_bytes=lambda: self._moved_bytes
        )

    async def _session(self, connection: Connection) -> None:
        items = items_of(self._wanted)
        request = SendRequest("", self._dispatch.workspace, items, follow=True, results=True)
        command = self._dispatch.agent_command("send")
        session = await FileSession.open(connection, command, request)
        try:
            if self._receiver is not None:
                self._failed.update(self._receiver.failed)
            self._receiver = Receiver(
                session,
                self._trees,
                on_settled=self._settled,
                on_bytes=self._moved,
                on_problem=self._told.failed,
            )
            await self._receiver.run(until_idle=False)
        finally:
            session.close()

    def _settled(self, told: FileTold, settled: SettledFile) -> None:
        if settled.state == FAILED:
            failure = Failure(settled.class_, settled.message, case=settled.case, about=settled.about)
            self._told.failed(told.path, failure)
            return
        self._failed.pop(told.path, None)
        if told.kind == FILE:
            tree = self._trees[told.item]
            path = posixpath.join(self._wanted[int(told.item)].to, tree.name_here(told.path))
            self._told.home((told.item, told.path), path, told.size_bytes)

    def _count_left(self) -> int:
        return len(self._receiver.left) if self._receiver is not None else 0

    @property
    def _missing(self) -> dict[str, str]:
        """Why each file that is not here has not come, by its path there."""
        if self._receiver is None:
            return dict(self._failed)
        left = {told.path: "it was on its way" for told in self._receiver.left.values()}
        return {**left, **self._failed, **self._receiver.failed}

    def outcome(self) -> OutputsHome | None:
        """What came, and what did not; None where nothing was to."""
        if self._task is None:
            return None
        missing = self._missing
        return {
            "files": self._told.files,
            "bytes": self._told.bytes,
            "missing_files": len(missing),
            "missing": dict(list(missing.items())[:MOST_NAMED]),
        }

    def _moved(self, count: int) -> None:
        self._moved_bytes += count
        self._told.moved(count)
        self._moved_at = time.monotonic()
