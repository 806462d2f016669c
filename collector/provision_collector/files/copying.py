"""Copy files to an instance or from it, by hand: over one connection, opened again as often as it takes."""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision_agent.contract.file_messages import (
    FileTold,
    ReceiveRequest,
    SendItem,
    SendRequest,
    SettledFile,
)
from provision_agent.contract.messages import RunFound, StatusAnswer, StatusRequest
from provision_agent.contract.parsing import parse

from ..errors import HostUnreachableError, UsageError
from ..instance import Connection, Deployment, Instance, Link, as_answer, call
from ..storage import in_thread
from .copied import Copied, next_of
from .local_tree import LocalTree
from .receiver import Receiver
from .sender import Sender
from .session import FileSession
from .sources import UploadSource
from .tree import list_all

ASK_WITHIN_S = 60.0


@dataclass(frozen=True)
class CopyOrder:
    """What is to be copied: from *sources* to *target*, each as the user wrote it, a remote one without its colon."""

    sources: tuple[str, ...]
    target: str
    is_to_instance: bool
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow: bool = False
    run: str | None = None
    workspace: str | None = None


async def copy(instance: Instance, order: CopyOrder, copied: Copied) -> None:
    """Carry *order* out; *copied* is kept up to date meanwhile. A followed one goes on until it is cancelled.

    Raises:
        UsageError: it cannot be meant. LocalMachineError: this disk. ProvisionError: of the kind that says why.
    """
    link = Link(instance, lambda event, **facts: None)
    try:
        deployment, workspace = await _asked(await link.connected(), order, instance)
        made = _sending if order.is_to_instance else _fetching
        one = made(order, deployment, workspace, copied)
        while True:
            connection = await link.connected()
            try:
                await one(connection)
                return
            except HostUnreachableError as lost:
                link.lose(str(lost), heard_at=None)
    finally:
        link.drop()


async def _asked(connection: Connection, order: CopyOrder, instance: Instance) -> tuple[Deployment, str]:
    """The agent, and the folder that relative paths of the instance are below."""
    folder = order.workspace or "~"
    deployment, answer = await call(
        connection,
        folders=[f"{folder}/.provision/agent"],
        arguments=["status"],
        request=StatusRequest(run=order.run, workspace=order.workspace),
        read=as_answer(StatusAnswer),
        timeout_s=ASK_WITHIN_S,
    )
    runs = [parse(RunFound, run, "runs") for run in answer.runs]
    if order.run is not None and not runs:
        raise UsageError(
            f"there is no run `{order.run}` on the instance",
            hint=f"`provision status {instance.options}` lists its runs",
        )
    newest = max(runs, key=lambda run: (run.is_alive, run.started or ""), default=None)
    return deployment, order.workspace or (newest.workspace if newest is not None else "")


# -- to the instance

One = Callable[[Connection], Awaitable[None]]


def _settling(order: CopyOrder, copied: Copied) -> Callable[[FileTold, SettledFile], None]:
    """Counts what became of each file; one that is copied by itself is called as the order calls it."""
    return lambda told, settled: copied.settle(told.path or order.sources[int(told.item)], told, settled)


def _sending(order: CopyOrder, deployment: Deployment, workspace: str, copied: Copied) -> One:
    targets = tuple(_target_there(source, order) for source in order.sources)
    sources = [
        UploadSource(number, os.path.abspath(source), f"{number}/", "required", order.include, order.exclude)
        for number, source in enumerate(order.sources)
    ]

    async def send(connection: Connection) -> None:
        listings = await in_thread(list_all, sources)
        for listing in listings:
            if listing.failure is not None:
                raise UsageError(
                    listing.failure.message, hint=next_of(listing.failure.class_, listing.failure.case)
                )
        request = ReceiveRequest("", workspace, to=targets)
        session = await FileSession.open(connection, deployment.command("receive"), request)
        try:
            await Sender(session, listings, on_settled=_settling(order, copied), on_bytes=copied.count).send()
        finally:
            session.close()

    return send


def _target_there(source: str, order: CopyOrder) -> str:
    """Where *source* goes on the instance: a folder keeps its name unless it is written with a ``/`` at its end."""
    if not os.path.isdir(source):
        return order.target if len(order.sources) == 1 else f"{order.target.rstrip('/')}/"
    if source.endswith("/") or (len(order.sources) == 1 and not order.target.endswith("/")):
        return f"{order.target.rstrip('/')}/"
    return f"{order.target.rstrip('/')}/{os.path.basename(os.path.abspath(source))}/"


# -- from the instance


def _fetching(order: CopyOrder, deployment: Deployment, workspace: str, copied: Copied) -> One:
    items = tuple(
        SendItem(str(number), source, order.include, order.exclude)
        for number, source in enumerate(order.sources)
    )
    request = SendRequest("", workspace, items, order.follow)

    async def fetch(connection: Connection) -> None:
        trees = {str(number): _tree_here(source, order) for number, source in enumerate(order.sources)}
        for tree in trees.values():
            await in_thread(tree.open)
        try:
            session = await FileSession.open(connection, deployment.command("send"), request)
            try:
                receiver = Receiver(
                    session,
                    trees,
                    on_settled=_settling(order, copied),
                    on_bytes=copied.count,
                    on_problem=copied.refuse,
                )
                await receiver.run(until_idle=not order.follow)
            finally:
                session.close()
        finally:
            for tree in trees.values():
                await in_thread(tree.close)

    return fetch


def _tree_here(source: str, order: CopyOrder) -> LocalTree:
    """The folder here that *source* goes into: a folder keeps its name unless it is written with a ``/`` at its end."""
    target = Path(order.target)
    name = posixpath.basename(posixpath.normpath(source)) or "files"
    is_folder = order.target.endswith("/") or target.is_dir() or len(order.sources) > 1
    if is_folder:
        return LocalTree(target, is_bare=True, single=name, prefix="" if source.endswith("/") else name)
    target = Path(os.path.abspath(target))
    return LocalTree(target.parent, is_bare=True, single=target.name, prefix=target.name)


async def until(work: Awaitable[None], tick: Callable[[], None], every_s: float) -> None:
    """Wait for *work*, and call *tick* meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait((task,), timeout=every_s))[0]:
            tick()
        task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def words_of(words: Sequence[str]) -> tuple[tuple[str, ...], str, bool]:
    """The sources, the target, and whether it goes to the instance, of *words*; a remote one begins with ``:``.

    Raises:
        UsageError: both sides are here, or both there.
    """
    *sources, target = words
    remote = [word.startswith(":") for word in sources]
    if all(remote) and not target.startswith(":"):
        return tuple(word[1:] or "." for word in sources), target, False
    if not any(remote) and target.startswith(":"):
        return tuple(sources), target[1:] or "./", True
    raise UsageError(
        "one side is on the instance and the other is here: a path there begins with `:`",
        hint="`provision copy --run RUN ./lora.safetensors :ComfyUI/models/loras/`, or the other way round",
    )
