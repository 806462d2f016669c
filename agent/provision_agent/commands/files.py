"""Files over the SSH connection: ``receive`` takes those of a run's uploads, or what a user copies here by hand."""

from __future__ import annotations

import functools
import os
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Tuple, Type, TypeVar

from ..contract import file_frames as wire
from ..contract.failures import Failure
from ..contract.file_messages import ReceiveRequest, SendRequest, Trouble
from ..contract.frames import ProtocolError
from ..contract.messages import read_message
from ..contract.parsing import ParseError, to_json
from ..contract.plan import Plan
from ..files.home import HomeLog
from ..files.landing import anywhere
from ..files.looker import Looker
from ..files.moved import Moved
from ..files.progress import Account, Nobody
from ..files.receiver import Place, Receiver
from ..files.records import Arrived, UploadLog, WantedItems
from ..files.sender import Sender
from ..files.wire import Gone, Wire
from ..host.file_lock import FileIsBusyError, try_lock
from ..run.record import read_plan
from ..run.state import StateFile
from ..run.workspace import Workspace
from ..run.writing import folder_for

WANTED_WITHIN_S = 300.0
"""How long a run may need until it knows what the instance is."""
TURN_WITHIN_S = 30.0
"""How long another session of the same run is waited for: one whose connection died takes half of it."""
LOOK_EVERY_S = 0.1

RequestT = TypeVar("RequestT", ReceiveRequest, SendRequest)


def receive_main(argv: List[str]) -> int:
    """``receive``: one JSON line, a `ReceiveRequest`, then frames of `contract.file_frames`."""
    return _converse(ReceiveRequest, _receive)


def send_main(argv: List[str]) -> int:
    """``send``: one JSON line, a `SendRequest`, then frames of `contract.file_frames`."""
    status = _converse(SendRequest, _send)
    os._exit(status)  # threads may wait for files that nobody wants any more


def _receive(line: Wire, request: ReceiveRequest) -> None:
    places, account = _of_run(request) if request.run else _of_user(request)
    Receiver(line, places, account, on_bytes=Moved(request.workspace)).run()


def _send(line: Wire, request: SendRequest) -> None:
    roots = {item.item: _named(request.workspace, item.path) for item in request.items}
    for item in request.items:
        if not request.follow and not os.path.exists(roots[item.item]):
            raise Failure("missing", f"there is no `{roots[item.item]}`", case="no_file_there")
    looker = Looker(request.items, roots, follow=request.follow)
    home = HomeLog(request.workspace) if request.results else None
    Sender(line, looker, follow=request.follow, on_bytes=Moved(request.workspace), home=home).run()


def _converse(kind: Type[RequestT], work: Callable[[Wire, RequestT], None]) -> int:
    """Read the request, greet, and do what is asked; the other side hears why it cannot be done."""
    line = Wire()
    try:
        request = read_message(kind, line.line())
    except Gone:
        return 1
    line.greet(request.nonce)
    threading.Thread(target=_speak, args=(line,), daemon=True).start()
    try:
        work(line, request)
    except Failure as failure:
        _say(line, failure)
    except (ProtocolError, ParseError) as error:
        _say(line, Failure("protocol", str(error)))
    except BrokenPipeError:
        pass
    return 0


def _named(workspace: str, path: str) -> str:
    """The absolute path that a user named."""
    return os.path.normpath(os.path.join(workspace or os.path.expanduser("~"), os.path.expanduser(path)))


def _speak(line: Wire) -> None:
    """Let the other side hear something every now and then; when it is gone, nothing is left to do."""
    while True:
        try:
            line.send(wire.BEAT, {})
        except OSError:
            os._exit(0)
        time.sleep(wire.SPEAK_EVERY_S)


def _say(line: Wire, failure: Failure) -> None:
    line.send(wire.PROBLEM, to_json(Trouble.of(failure)))


class _Surroundings(NamedTuple):
    """What `folder_for` needs to know."""

    workspace: str
    state: StateFile


def _of_run(request: ReceiveRequest) -> Tuple[Dict[str, Place], Account]:
    """The places of the uploads that the run wants; the run reads the account. Waits until it has said which."""
    workspace = Workspace(request.workspace)
    try:
        unbound = read_plan(workspace, request.run)
    except OSError:
        raise Failure("missing", f"there is no run `{request.run}` in `{request.workspace}`") from None
    plan = unbound.bind(workspace=workspace.root, home=os.path.expanduser("~"), run_id=request.run)
    log = UploadLog.of(workspace, request.run)
    _take_turn(log.path)
    wanted = _wanted(WantedItems(workspace, request.run))
    return _places(plan, workspace, wanted), log


def _places(plan: Plan, workspace: Workspace, wanted: Tuple[str, ...]) -> Dict[str, Place]:
    reach = functools.partial(folder_for, _Surroundings(workspace.root, StateFile(workspace.state)))
    return {
        str(position): Place(
            os.path.normpath(os.path.join(workspace.root, item.path)),
            item.path.endswith("/"),
            reach,
            Arrived(workspace.root, item.key),
        )
        for position, item in enumerate(plan.uploads)
        if str(position) in wanted
    }


def _wanted(items: WantedItems) -> Tuple[str, ...]:
    end = time.monotonic() + WANTED_WITHIN_S
    while time.monotonic() < end:
        positions = items.known()
        if positions is not None:
            return positions
        time.sleep(LOOK_EVERY_S)
    raise Failure("timed_out", "the run does not say which files it wants")


def _take_turn(path: str) -> None:
    """Be the only one who receives the files of a run; the lock ends with this process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + TURN_WITHIN_S
    while True:
        try:
            try_lock(descriptor)
            return
        except FileIsBusyError:
            if time.monotonic() >= end:
                raise Failure(
                    "conflict",
                    "another session sends the files of this run",
                    case="sent_by_another",
                    retriable=True,
                ) from None
        time.sleep(LOOK_EVERY_S)


def _of_user(request: ReceiveRequest) -> Tuple[Dict[str, Place], Account]:
    """The places that a user named."""
    places: Dict[str, Place] = {}
    for number, to in enumerate(request.to):
        path = _named(request.workspace, to)
        is_folder = to.endswith("/") or os.path.isdir(path)
        places[str(number)] = Place(path, is_folder, anywhere, None)
    return places, Nobody()
