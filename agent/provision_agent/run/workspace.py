"""Where a workspace keeps the tool's own files, and the lock that lets one machine work in it.

Everything under `.provision` is 0600/0700. One run at a time holds the lock: by flock within a machine,
by a record that is renewed between machines that share a network volume.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from typing import Any, Dict, List, Optional

from ..contract import version
from ..contract.failures import Failure
from ..host.detach import Identity, boot_id
from .state import write_atomically

RENEW_EVERY_S = 10.0
STALE_AFTER_S = 60.0
WATCH_S = 2.5 * RENEW_EVERY_S


class WorkspaceHeldError(Exception):
    """Another process or machine works here; `holder` is the lock's record (`hostname run pid …`)."""

    def __init__(self, holder: Dict[str, Any], *, is_elsewhere: bool) -> None:
        super().__init__(f"the workspace is in use by {holder.get('hostname', 'another process')}")
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

    def lock_holder(self) -> Dict[str, Any]:
        """The lock's record; empty when there is none."""
        return _read_json(self.lock)

    def keeper_is_alive(self) -> bool:
        """True while the keeper, or an agent whose keeper died, works here on this machine."""
        holder = self.lock_holder()
        processes = (Identity.from_json(holder.get(role) or {}) for role in ("keeper", "agent"))
        return any(process is not None and process.is_alive() for process in processes)


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
        os.makedirs(os.path.join(workspace.tool, folder), mode=0o700, exist_ok=True)
    probe = os.path.join(workspace.tool, f"probe.{os.getpid()}")
    with open(probe, "wb") as file:
        file.write(b"x")
    os.unlink(probe)
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
        self._record: Dict[str, Any] = {}

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
        import fcntl  # here: sources are also asked from machines that have no such module

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceHeldError(workspace.lock_holder(), is_elsewhere=False) from None
        except OSError:
            if workspace.keeper_is_alive():  # a volume without flock: the record alone must do
                raise WorkspaceHeldError(workspace.lock_holder(), is_elsewhere=False) from None

    @staticmethod
    def _refuse_other_machine(workspace: Workspace) -> None:
        holder = workspace.lock_holder()
        if not holder or holder.get("released") or (holder.get("boot_id") == boot_id() and _is_here(holder)):
            return
        if _age_s(workspace) > STALE_AFTER_S:
            return
        if _is_here(holder) and not _is_renewed(workspace.lock, within_s=WATCH_S):
            return
        raise WorkspaceHeldError(holder, is_elsewhere=True)

    def renew(self, **facts: Any) -> None:
        """Write the record again; *facts* (`run keeper agent`) stay until they are given anew."""
        self._record.update(facts, format=version.FORMAT, hostname=socket.gethostname(), boot_id=boot_id())
        self._record.update(renewed_unix=time.time())
        self._write(self._record)

    @property
    def is_deleted(self) -> bool:
        """Somebody deleted the file: another process may hold a lock of this workspace by now."""
        return os.fstat(self.descriptor).st_nlink == 0

    def release(self) -> None:
        """Give it back; the record stays and says so."""
        self._write(dict(self._record, released=True))
        os.close(self.descriptor)

    def _write(self, record: Dict[str, Any]) -> None:
        data = json.dumps(record).encode() + b"\n"
        os.pwrite(self.descriptor, data, 0)  # in place: a rename would leave the flock on the old file
        os.ftruncate(self.descriptor, len(data))


def _is_here(holder: Dict[str, Any]) -> bool:
    return bool(holder.get("hostname") == socket.gethostname())


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


def _read_json(path: str) -> Dict[str, Any]:
    for _ in range(3):  # a torn read between pwrite and ftruncate is whole the next time
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
            return data if isinstance(data, dict) else {}
        except ValueError:
            time.sleep(0.01)
        except OSError:
            return {}
    return {}
