"""Files of this machine that must not be torn, read by other users, or written by two processes at once.

The only place with atomic writes, private modes and file locks. Everything here may block on a slow disk: on the
event loop use the `…_async` variants and ``async with FileLock(…)``.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from .errors import LocalMachineError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
LOCK_WAIT_S = 30.0
"""How long a lock is waited for when the caller says nothing: its holders keep it for milliseconds."""
LOOK_EVERY_S = 0.02

P = ParamSpec("P")
T = TypeVar("T")


class LockBusyError(LocalMachineError):
    """Another process holds a lock, and held it for as long as the caller wanted to wait."""


def private_folder(path: Path) -> Path:
    """Make *path* and what is missing above it, for this user alone; returns *path*. Raises OSError."""
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    return path


def open_private(path: Path, flags: int, *, mode: int = FILE_MODE) -> int:
    """A descriptor of *path*, made with *mode* where it is missing; programs that are started do not inherit it.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, mode)


def write_atomically(path: Path, data: str | bytes, *, mode: int = FILE_MODE, durable: bool = True) -> None:
    """Make *data* the content of *path*: whoever is killed when, the file is the old one or the new one.

    Args:
        mode: The new file's mode.
        durable: It is on the disk when this returns: a power cut takes neither the file nor its name.

    Raises:
        OSError: this disk does not take it; the old file is as it was.
    """
    with _temporary(path, data, mode=mode, durable=durable) as temporary:
        temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def create_atomically(path: Path, data: str | bytes, *, mode: int = FILE_MODE, durable: bool = True) -> bool:
    """As `write_atomically` where *path* is missing; False, with nothing changed, where there is such a file.

    Of several processes that come at once, one is told True.
    """
    with _temporary(path, data, mode=mode, durable=durable) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: two at once are then not told apart
            if path.exists():
                return False
            temporary.replace(path)
    if durable:
        sync_folder(path.parent)
    return True


async def write_atomically_async(
    path: Path, data: str | bytes, *, mode: int = FILE_MODE, durable: bool = True
) -> None:
    """`write_atomically`, off the event loop."""
    await in_thread(write_atomically, path, data, mode=mode, durable=durable)


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread` for what changes files: who is cancelled waits until it is done, so nothing is changed later."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait((work,))
        if not work.cancelled():
            work.exception()  # nobody else asks for it
        raise


def append(path: Path, data: bytes, *, is_locked: bool = False) -> None:
    """Add *data* to the end of *path*, a private file, in one write.

    Args:
        is_locked: Other processes add to it, too, and one that replaces it holds its lock: wait for that.

    Raises:
        OSError: this disk does not take it. LockBusyError: another process keeps it locked.
    """
    descriptor = open_private(path, os.O_WRONLY | os.O_APPEND)
    try:
        if is_locked:
            lock(descriptor, path)
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Put the names in *folder* on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, path: Path, *, wait_s: float = LOCK_WAIT_S) -> None:
    """Lock the open file *descriptor* against other processes and descriptors; closing it is the end of the lock.

    Args:
        path: Its name, for the message.
        wait_s: How long another holder is waited for, in seconds; 0 asks once.

    Raises:
        LockBusyError: another holds it.
    """
    give_up_at = time.monotonic() + wait_s
    while not _is_locked_now(descriptor):
        if time.monotonic() >= give_up_at:
            raise _busy(path, wait_s)
        time.sleep(LOOK_EVERY_S)


class FileLock:
    """An exclusive lock between processes: the open file *path*, which stays behind empty.

    It ends with its holder, whatever killed that. Use it as ``with`` or ``async with``, or `acquire` and `release`.

    Args:
        path: The lock's file; its folder is made, private.
        wait_s: How long another holder is waited for, in seconds; 0 asks once.
    """

    def __init__(self, path: Path, *, wait_s: float = LOCK_WAIT_S) -> None:
        self._path = path
        self._wait_s = wait_s
        self._descriptor = -1

    def acquire(self) -> None:
        """Wait for the lock. Raises LockBusyError: another holds it. OSError: its file cannot be made."""
        self._open()
        try:
            lock(self._descriptor, self._path, wait_s=self._wait_s)
        except BaseException:
            self.release()
            raise

    async def acquire_async(self) -> None:
        """As `acquire`, off the event loop; who is cancelled meanwhile holds nothing."""
        waiting = asyncio.ensure_future(asyncio.to_thread(self.acquire))
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(self._let_go)
            raise

    def _let_go(self, waited: asyncio.Future[None]) -> None:
        if not waited.cancelled() and waited.exception() is None:
            self.release()

    def release(self) -> None:
        """Let the next one have it. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _open(self) -> None:
        assert self._descriptor < 0, "held already"
        private_folder(self._path.parent)
        self._descriptor = open_private(self._path, os.O_RDWR)


def _is_locked_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(path: Path, wait_s: float) -> LockBusyError:
    waited = f" for {wait_s:g} s" if wait_s else ""
    return LockBusyError(
        f"another process holds `{path}`{waited}", hint="wait for it, or stop it; then the same command again"
    )


@contextmanager
def _temporary(path: Path, data: str | bytes, *, mode: int, durable: bool) -> Iterator[Path]:
    """A file beside *path* with all of *data* in it; what is left of it afterwards is removed."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        with open(open_private(temporary, os.O_WRONLY | os.O_TRUNC, mode=mode), "wb") as file:
            os.fchmod(file.fileno(), mode)  # one that a killed process of this number left may have another
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        if error.filename == str(temporary) or error.filename == temporary:
            error.filename = str(path)  # the name that people know
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
