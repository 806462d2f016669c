"""Network file systems that cannot lock: the work goes on, and is said to be without locks once."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest
from harness.file_server import Content
from provision_agent.contract.plan import Download
from provision_agent.host.detach import Identity
from provision_agent.host.file_lock import FileIsBusyError, try_lock
from provision_agent.run.workspace import WorkspaceHeldError, WorkspaceLock, resolve

CANNOT = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO]


@pytest.fixture(params=CANNOT, ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    """As Lustre without `flock` (ENOSYS), NFS without lockd (ENOLCK), or FUSE answer."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_files_are_fetched_without_locks_and_that_is_said_once(no_locks, bench, server):
    items = [
        Download(url=server.add(f"/{number}", Content(1000, seed=number)), path=f"{number}.bin")
        for number in range(3)
    ]

    results = bench.fetch(*items)

    assert {result.state for result in results.values()} == {"ok"}
    warnings = [event["message"] for event in bench.events if event["event"] == "warning"]
    assert len(warnings) == 1
    assert "cannot lock files" in warnings[0]


def test_a_workspace_without_locks_is_held_by_the_record_of_a_keeper_that_lives(no_locks, tmp_path):
    workspace = resolve(str(tmp_path / "w"), fallback=False)
    lock = WorkspaceLock.take(workspace)
    lock.renew(run="r1", keeper=Identity.of(os.getpid()))

    with pytest.raises(WorkspaceHeldError):
        WorkspaceLock.take(workspace)

    lock.release()
    WorkspaceLock.take(workspace).release()


@pytest.mark.parametrize("code", [errno.EWOULDBLOCK, errno.EAGAIN])
def test_only_what_says_later_means_that_somebody_has_the_lock(code, tmp_path, monkeypatch):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with open(tmp_path / "f", "wb") as file, pytest.raises(FileIsBusyError):
        try_lock(file.fileno())


def test_a_part_that_another_process_has_is_waited_for(bench, server):
    url = server.add("/m.bin", Content(1000))
    part = bench.path("m.bin.part")
    with part.open("wb") as other:
        assert try_lock(other.fileno())
        engine = bench.engine(Download(url=url, path="m.bin"))
        bench.on_event = lambda event, fields: other.close() if event == "download_waiting" else None
        try:
            engine.start()
            assert engine.wait()
        finally:
            engine.stop()

    assert engine.results()["m.bin"].state == "ok"
    assert bench.named("waiting")
