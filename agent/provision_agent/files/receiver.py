"""Take files from the other side of a session: look at what is there, want the rest, and give each its final name.

One thread reads the wire, one looks at the disk and says what is wanted, one writes. What is wanted twice or comes out of
order is the sender's fault; what one file lacks costs no other file anything.
"""

from __future__ import annotations

import functools
import os
import queue
import stat
import threading
from typing import Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from ..contract import file_frames as wire
from ..contract.content import part_name
from ..contract.failures import Failure, disk_failure
from ..contract.file_frames import FileFrame
from ..contract.file_messages import (
    AGAIN,
    FAILED,
    FILE,
    FOLDER,
    HAVE,
    MAX_FILES,
    OK,
    AllTold,
    CompleteFile,
    FilesTold,
    FileTold,
    SettledFile,
    TakenBytes,
    Trouble,
    Wanted,
    link_leads_out,
)
from ..contract.frames import ProtocolError
from ..contract.parsing import ParseError, parse, to_json
from ..host.folders import nearest_folder
from .landing import Landing, Reach, adopt, lstat_or_none, make_link, sha256_of
from .progress import Account, Progress
from .records import Arrived, Verified
from .wire import Wire

TELL_TAKEN_EVERY_BYTES = 1 << 20
TELL_WITHIN_S = 0.004
"""What was taken is told at the latest when nothing has come for so long: not once for each frame."""
RESERVE_BYTES = 256 << 20
"""What stays free on the disk besides the files."""
FLUSH_EVERY = 200


class Place(NamedTuple):
    """Where the files of an item go: below the folder `path`, or, if it is none, its one file gets this very name."""

    path: str
    is_folder: bool
    reach: Reach
    arrived: Optional[Arrived]

    def final(self, told: FileTold) -> str:
        """The absolute path of one of its files. Raises Failure: the sender means another kind of item."""
        if not told.path if self.is_folder else "/" in told.path:
            raise Failure("protocol", f"`{told.path or self.path}` does not fit its item")
        return os.path.join(self.path, told.path) if self.is_folder else self.path


class Receiver:
    """One session. *places* are the items that are wanted, by what the sender calls them; of others no file is taken."""

    def __init__(
        self,
        line: Wire,
        places: Dict[str, Place],
        account: Account,
        *,
        on_bytes: Callable[[], None] = lambda: None,
    ) -> None:
        self._wire = line
        self._on_bytes = on_bytes
        self._places = places
        self._files: Dict[int, FileTold] = {}
        self._landings: Dict[int, Landing] = {}
        self._given_up: Set[int] = set()
        self._tried: Dict[int, int] = {}
        self._progress = Progress(account)
        self._work: "queue.Queue[Optional[FileFrame]]" = queue.Queue()
        self._lock = threading.Lock()
        self._taken = self._taken_told = 0
        self._wants: List[Wanted] = []
        self._settled: List[SettledFile] = []
        self._checker = threading.Thread(target=self._guarded, args=(self._check_all,), daemon=True)
        self._writer = threading.Thread(target=self._guarded, args=(self._write_all,), daemon=True)
        self._trouble: Optional[Exception] = None

    def run(self) -> None:
        """Until the other side is gone or has said that it is over.

        Raises:
            ProtocolError, ParseError: it sends what no version of this protocol sends.
        """
        try:
            for frame in self._wire.frames():
                if self._trouble is not None:
                    raise self._trouble
                if frame.kind == wire.OVER:
                    break
                self._take(frame)
        finally:
            self._work.put(None)
            if self._writer.is_alive():
                self._writer.join()
            self._progress.leave()

    def _take(self, frame: FileFrame) -> None:
        if frame.kind == wire.LISTED:
            for told in parse(FilesTold, frame.json()).files:
                self._files[told.n] = told
            if len(self._files) > MAX_FILES:
                raise ProtocolError(f"more than {MAX_FILES} files")
        elif frame.kind == wire.ALL_LISTED:
            told_items = parse(AllTold, frame.json()).items
            self._progress.begin([item for item in told_items if item.item in self._places])
            self._checker.start()
            self._writer.start()
        elif frame.kind in (wire.DATA, wire.COMPLETE, wire.PROBLEM):
            self._on_bytes()
            self._work.put(frame)
        elif frame.kind == wire.BEAT:
            self._progress.touch()
        else:
            raise ProtocolError(f"a frame of kind {frame.kind!r} from who sends files")

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (ProtocolError, ParseError, OSError) as error:
            self._trouble = error

    # -- what is there

    def _check_all(self) -> None:
        files = list(self._files.values())
        too_big = self._too_big(files)
        for told in files:
            place = self._places.get(told.item)
            if place is None:
                self._settle(SettledFile(told.n, HAVE))
            elif told.item in too_big:
                self._fail(told, too_big[told.item])
            else:
                self._attempt(told, functools.partial(self._check, told, place))
            if len(self._wants) + len(self._settled) >= FLUSH_EVERY:
                self._flush()
        self._flush()

    def _check(self, told: FileTold, place: Place) -> None:
        path = place.final(told)
        with place.reach(path) as folder:
            name = os.path.basename(path)
            if told.kind == FOLDER:
                self._make_folder(told, folder.descriptor, name)
                return
            if told.kind != FILE:
                if link_leads_out(told.path, told.target):
                    message = f"the link `{told.path}` leads out of what is sent, to `{told.target}`"
                    raise Failure("unsafe_path", message, case="link_leads_out")
                made = make_link(folder, name, told.target)
                self._done(told, OK if made else HAVE)
                return
            there = lstat_or_none(folder, name)
            if there is not None and stat.S_ISDIR(there.st_mode):
                raise Failure("conflict", f"`{path}` is a folder there", case="path_taken")
            if there is not None and stat.S_ISREG(there.st_mode) and there.st_size == told.size_bytes:
                known = place.arrived.get(told.path) if place.arrived is not None else None
                is_untouched = there.st_mtime_ns == told.mtime_ns
                if known is not None and is_untouched and known[:2] == (told.size_bytes, told.mtime_ns):
                    if stat.S_IMODE(there.st_mode) != told.mode & 0o777:
                        adopt(folder, name, CompleteFile(told.n, mtime_ns=told.mtime_ns), told.mode)
                    self._done(told, HAVE)
                    return
                self._want(Wanted(told.n, has=sha256_of(folder, name)))
                return
            part = lstat_or_none(folder, part_name(name, path))
        if part is None or not part.st_size:
            self._want(Wanted(told.n))
            return
        landing = self._landing(told)
        self._progress.landed(told, landing.position, is_sent=False)
        self._want(Wanted(told.n, landing.position, landing.proof))

    def _make_folder(self, told: FileTold, above: int, name: str) -> None:
        try:
            os.mkdir(name, told.mode & 0o777 | 0o700, dir_fd=above)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=above).st_mode):
                raise Failure("conflict", f"`{told.path}` is no folder there", case="path_taken") from None
            self._done(told, HAVE)
            return
        os.chmod(name, told.mode & 0o777 | 0o700, dir_fd=above)
        self._done(told, OK)

    def _too_big(self, files: List[FileTold]) -> Dict[str, Failure]:
        """The items of a disk that has no room for what is missing there."""
        needed: Dict[int, int] = {}
        disks: Dict[str, Tuple[int, str]] = {}
        for key, place in self._places.items():
            folder = nearest_folder(place.path)
            disks[key] = (os.stat(folder).st_dev, folder)
        for told in files:
            place_of = self._places.get(told.item)
            if place_of is None or told.kind != FILE or _has_size(place_of, told):
                continue
            device = disks[told.item][0]
            needed[device] = needed.get(device, 0) + told.size_bytes
        found: Dict[str, Failure] = {}
        for key, (device, folder) in disks.items():
            free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - RESERVE_BYTES
            if needed.get(device, 0) > max(free, 0):
                message = (
                    f"{needed[device] / 1e6:.1f} MB are to be sent to `{folder}` on the instance, and "
                    f"{max(free, 0) / 1e6:.1f} MB are free there beside the {RESERVE_BYTES >> 20} MiB that stay free"
                )
                found[key] = Failure("disk_full", message)
        return found

    # -- what comes

    def _write_all(self) -> None:
        while True:
            try:
                frame = self._work.get(timeout=TELL_WITHIN_S if self._has_news() else None)
            except queue.Empty:
                self._tell()
                continue
            if frame is None:
                break
            if frame.kind == wire.PROBLEM:
                self._take_problem(parse(Trouble, frame.json()))
            elif frame.kind == wire.COMPLETE:
                self._complete(parse(CompleteFile, frame.json()))
            else:
                self._write(frame)
            if self._taken - self._taken_told >= TELL_TAKEN_EVERY_BYTES or len(self._settled) >= FLUSH_EVERY:
                self._tell()
        self._tell()
        for landing in self._landings.values():
            landing.close()

    def _has_news(self) -> bool:
        return self._taken > self._taken_told or bool(self._settled or self._wants)

    def _tell(self) -> None:
        """Say what was taken, what is settled, and what is wanted."""
        if self._taken > self._taken_told:
            self._taken_told = self._taken
            self._wire.send(wire.TAKEN, to_json(TakenBytes(self._taken)))
        self._flush()

    def _write(self, frame: FileFrame) -> None:
        told = self._known(frame.number)
        self._taken += len(frame.payload)
        if told.n in self._given_up:
            return

        def write() -> None:
            landing = self._landing(told)
            before = landing.position if frame.offset else 0
            landing.write(frame.offset, frame.payload)
            if not frame.offset:
                self._progress.forget(told)
            self._progress.landed(told, landing.position - before, len(frame.payload))

        self._attempt(told, write)

    def _complete(self, complete: CompleteFile) -> None:
        told = self._known(complete.n)
        if told.n not in self._given_up:
            self._attempt(told, lambda: self._finish(told, complete))

    def _finish(self, told: FileTold, complete: CompleteFile) -> None:
        place = self._places[told.item]
        path = place.final(told)
        if complete.is_same:
            with place.reach(path) as folder:
                adopt(folder, os.path.basename(path), complete, told.mode)
            self._remember(place, told, complete)
            self._done(told, HAVE)
            return
        landing = self._landing(told)
        if complete.changed:
            self._landings.pop(told.n).discard()
            self._progress.forget(told)
            return
        if landing.finish(complete, told.mode):
            del self._landings[told.n]
            self._remember(place, told, complete)
            self._done(told, OK)
            return
        self._progress.forget(told)
        self._tried[told.n] = self._tried.get(told.n, 0) + 1
        if self._tried[told.n] > 1:
            self._landings.pop(told.n).discard()
            raise Failure("truncated", f"`{told.path or path}` came damaged twice")
        self._settle(SettledFile(told.n, AGAIN))

    def _remember(self, place: Place, told: FileTold, complete: CompleteFile) -> None:
        if place.arrived is not None:
            place.arrived.put(told.path, Verified(complete.size_bytes, complete.mtime_ns, complete.sha256))

    def _take_problem(self, trouble: Trouble) -> None:
        failure = trouble.failure()
        if trouble.n is None:
            self._progress.fail_item(trouble.item or "", failure)
        else:
            told = self._known(trouble.n)
            if told.n not in self._given_up:
                self._fail(told, failure)

    def _known(self, number: int) -> FileTold:
        told = self._files.get(number)
        if told is None or told.item not in self._places:
            raise ProtocolError("a file that nobody wants")
        return told

    def _landing(self, told: FileTold) -> Landing:
        with self._lock:
            found = self._landings.get(told.n)
            if found is None:
                place = self._places[told.item]
                found = self._landings[told.n] = Landing(place.final(told), place.reach)
            return found

    # -- what is said

    def _attempt(self, told: FileTold, work: Callable[[], None]) -> None:
        try:
            work()
        except Failure as failure:
            self._fail(told, failure)
        except NotADirectoryError:
            folder = os.path.dirname(self._places[told.item].final(told))
            message = f"`{told.path or folder}` cannot be written: a file stands where its folder `{folder}` must be"
            self._fail(told, Failure("conflict", message, case="path_taken"))
        except OSError as error:
            self._fail(told, disk_failure(error, told.path or told.item))

    def _fail(self, told: FileTold, failure: Failure) -> None:
        self._given_up.add(told.n)
        with self._lock:
            landing = self._landings.pop(told.n, None)
        if landing is not None:
            landing.close()
        self._progress.fail(told, failure)
        self._settle(
            SettledFile(told.n, FAILED, failure.class_, failure.message, failure.case, failure.about)
        )

    def _done(self, told: FileTold, state: str) -> None:
        self._progress.done(told)
        self._settle(SettledFile(told.n, state))

    def _want(self, wanted: Wanted) -> None:
        with self._lock:
            self._wants.append(wanted)

    def _settle(self, settled: SettledFile) -> None:
        with self._lock:
            self._settled.append(settled)

    def _flush(self) -> None:
        with self._lock:
            wants, self._wants = self._wants, []
            settled, self._settled = self._settled, []
        self._wire.send_list(wire.WANTED, "wanted", wants)
        self._wire.send_list(wire.SETTLED, "settled", settled)


def _has_size(place: Place, told: FileTold) -> bool:
    try:
        return os.stat(place.final(told)).st_size == told.size_bytes
    except (OSError, Failure):
        return False
