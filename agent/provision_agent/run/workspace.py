"""Where a workspace keeps the tool's own files, and the lock that lets one machine work in it.

Everything under `.provision` is 0600/0700. One run at a time holds the lock: by flock within a machine,
by a record that is renewed between machines that share a network volume.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from dataclasses import dataclass, replace
from typing import List, Optional

from ..contract.failures import Failure
from ..contract.parsing import NotJsonError, ParseError, bounded, parse, read_object, to_json
from ..contract.version import FORMAT
from ..host.detach import Identity, boot_id
from ..host.file_lock import FileIsBusyError, try_lock
from ..host.folders import make_private
from .state import write_atomically

RENEW_EVERY_S = 10.0
STALE_AFTER_S = 60.0
WATCH_S = 2.5 * RENEW_EVERY_S


MAX_RECORD_BYTES = 64 * 1024


@dataclass(frozen=True)
class LockRecord:
    """Who works in a workspace, as its lock's file says; without a `hostname`, nobody ever did."""

    hostname: str = bounded("", max_chars=256)
    run: Optional[str] = bounded(None, max_chars=64)
    keeper: Optional[Identity] = None
    agent: Optional[Identity] = None
    boot_id: str = bounded("", max_chars=64)
    renewed_unix: float = 0.0
    released: bool = False
    """It was given back."""
    format: int = FORMAT

    @property
    def is_alive(self) -> bool:
        """The keeper, or an agent whose keeper died, works on this machine."""
        return any(process is not None and process.is_alive() for process in (self.keeper, self.agent))

    @property
    def is_here(self) -> bool:
        """It was written on a machine of this one's name."""
        return self.hostname == socket.gethostname()


class WorkspaceHeldError(Exception):
    """Another process or machine works here; `holder` is the lock's record."""

    def __init__(self, holder: LockRecord, *, is_elsewhere: bool) -> None:
        super().__init__(f"the workspace is in use by {holder.hostname or 'another process'}")
        self.holder = holder
        self.is_elsewhere = is_elsewhere


class Workspace:
    """The paths of one workspace."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.tool = os.path.join(root, ".provision")
        self.lock = os.path.join(self.tool, "lock")
        self.current = os.path.join(self.tool, "current")
        self.state = os.path.join(self.tool, "state.json")
        self.reserve = os.path.join(self.tool, "reserve")
        self.errors = os.path.join(root, "provision_errors.log")
        self.core_link = os.path.join(root, "provision_core.log")

    def run_directory(self, run_id: str) -> str:
        """`.provision/runs/<run-id>`."""
        return os.path.join(self.tool, "runs", run_id)

    def run_file(self, run_id: str, name: str) -> str:
        """A file of a run: core.log, events.jsonl, plan.json, run.json, status.json or agent.log."""
        return os.path.join(self.run_directory(run_id), name)

    def current_run(self) -> Optional[str]:
        """The run id in `.provision/current`; None when there was none yet."""
        try:
            with open(self.current, encoding="utf-8") as file:
                return file.read().strip() or None
        except OSError:
            return None

    def run_ids(self) -> List[str]:
        """Every run that left a folder here, oldest first."""
        runs = os.path.join(self.tool, "runs")
        try:
            return sorted(os.listdir(runs), key=lambda run: os.stat(os.path.join(runs, run)).st_mtime)
        except OSError:
            return []

    def set_current(self, run_id: str) -> None:
        """Make *run_id* the current run: `.provision/current` and the link `provision_core.log`."""
        write_atomically(self.current, run_id.encode() + b"\n")
        temporary = f"{self.core_link}.{os.getpid()}.tmp"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(os.path.relpath(self.run_file(run_id, "core.log"), self.root), temporary)
        os.replace(temporary, self.core_link)

    def lock_holder(self) -> LockRecord:
        """The lock's record; an empty one when there is none that can be read."""
        for _ in range(3):  # a torn read between pwrite and ftruncate is whole the next time
            try:
                with open(self.lock, "rb") as file:
                    data = read_object(file.read(MAX_RECORD_BYTES + 1), max_bytes=MAX_RECORD_BYTES)
                return parse(LockRecord, data, "lock")
            except NotJsonError:
                time.sleep(0.01)
            except (OSError, ParseError):
                break
        return LockRecord()

    def keeper_is_alive(self) -> bool:
        """True while the keeper, or an agent whose keeper died, works here on this machine."""
        return self.lock_holder().is_alive


def resolve(path: str, *, fallback: bool) -> Workspace:
    """Make *path* a workspace; with *fallback*, /workspace and then ~/workspace are tried after it.

    Raises:
        Failure: `read_only` or `disk_full`, when none can be written.
    """
    candidates = [os.path.expanduser(path)]
    if fallback:
        candidates += [
            other for other in ("/workspace", os.path.expanduser("~/workspace")) if other != candidates[0]
        ]
    problems, is_full = [], False
    for candidate in candidates:
        try:
            return _prepared(Workspace(os.path.abspath(candidate)))
        except OSError as error:
            problems.append(f"`{candidate}`: {error.strerror}")
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    raise Failure("disk_full" if is_full else "read_only", f"no workspace can be used: {'; '.join(problems)}")


def _prepared(workspace: Workspace) -> Workspace:
    os.makedirs(workspace.root, exist_ok=True)
    for folder in ("", "agent", "runs", "services", "cache"):
        make_private(os.path.join(workspace.tool, folder).rstrip("/"))
    return workspace


def remember(workspace: Workspace) -> None:
    """Add it to `~/.provision/workspaces`, which lists the workspaces of this instance, one a line.

    A convenience: a home folder that cannot be written is no reason to fail.
    """
    path = os.path.expanduser("~/.provision/workspaces")
    if workspace.root in known_workspaces():
        return
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{workspace.root}\n".encode())  # appended: several may register at once
        finally:
            os.close(descriptor)
    except OSError:
        pass


def known_workspaces() -> List[str]:
    """The workspaces of this instance that still exist, oldest first."""
    try:
        with open(os.path.expanduser("~/.provision/workspaces"), encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in file]
    except OSError:
        return []
    return [line for line in dict.fromkeys(lines) if os.path.isdir(os.path.join(line, ".provision"))]


class WorkspaceLock:
    """The right to work in a workspace. The descriptor may be inherited: whoever holds it, holds the lock."""

    def __init__(self, workspace: Workspace, descriptor: int) -> None:
        self.descriptor = descriptor
        self._path = workspace.lock
        self._record = LockRecord()
        self._writing = threading.Lock()

    @classmethod
    def take(cls, workspace: Workspace) -> WorkspaceLock:
        """Take it without waiting, but for a rebooted machine of this name, which is watched for `WATCH_S`.

        Raises:
            WorkspaceHeldError: a process here or another machine holds it.
        """
        descriptor = os.open(workspace.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            cls._flock(descriptor, workspace)
            cls._refuse_other_machine(workspace)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(workspace, descriptor)

    @staticmethod
    def _flock(descriptor: int, workspace: Workspace) -> None:
        try:
            is_held = False
            if not try_lock(descriptor):  # a volume without flock: the record alone must do
                holder = workspace.lock_holder()
                is_held = holder.is_alive and not holder.released
        except FileIsBusyError:
            is_held = True
        if is_held:
            raise WorkspaceHeldError(workspace.lock_holder(), is_elsewhere=False)

    @staticmethod
    def _refuse_other_machine(workspace: Workspace) -> None:
        holder = workspace.lock_holder()
        if not holder.hostname or holder.released or (holder.boot_id == boot_id() and holder.is_here):
            return
        if _age_s(workspace) > STALE_AFTER_S:
            return
        if holder.is_here and not _is_renewed(workspace.lock, within_s=WATCH_S):
            return
        raise WorkspaceHeldError(holder, is_elsewhere=True)

    def renew(
        self,
        *,
        run: Optional[str] = None,
        keeper: Optional[Identity] = None,
        agent: Optional[Identity] = None,
    ) -> None:
        """Write the record again; what is given stays until it is given anew."""
        with self._writing:
            if self._record.released:
                return  # the descriptor is closed
            self._record = LockRecord(
                hostname=socket.gethostname(),
                run=run or self._record.run,
                keeper=keeper or self._record.keeper,
                agent=agent or self._record.agent,
                boot_id=boot_id(),
                renewed_unix=time.time(),
            )
            self._write()

    @property
    def is_deleted(self) -> bool:
        """Somebody deleted the file: another process may hold a lock of this workspace by now."""
        return os.fstat(self.descriptor).st_nlink == 0

    def release(self) -> None:
        """Give it back; the record stays and says so."""
        with self._writing:
            self._record = replace(self._record, released=True)
            self._write()
        os.close(self.descriptor)

    def _write(self) -> None:
        data = json.dumps(to_json(self._record)).encode() + b"\n"
        os.pwrite(self.descriptor, data, 0)  # in place: a rename would leave the flock on the old file
        os.ftruncate(self.descriptor, len(data))


def _age_s(workspace: Workspace) -> float:
    """Age of the lock by the volume's own clock: two machines' clocks may differ by hours."""
    probe = f"{workspace.lock}.{socket.gethostname()}.{os.getpid()}.now"
    with open(probe, "wb"):
        now = os.stat(probe).st_mtime
    os.unlink(probe)
    return now - os.stat(workspace.lock).st_mtime


def _is_renewed(path: str, *, within_s: float) -> bool:
    before = os.stat(path).st_mtime_ns
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        time.sleep(0.5)
        if os.stat(path).st_mtime_ns != before:
            return True
    return False
