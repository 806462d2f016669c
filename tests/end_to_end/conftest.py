"""What the end-to-end tests stand on: a real sshd, a real file server, the published command as a subprocess."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest
from harness.file_server import FileServer
from harness.warm_start import Started, WarmStart
from provision_collector.demo.instance import EmbeddedInstance
from provision_collector.instance import Instance

if TYPE_CHECKING:
    from .collecting import Case
    from .server import Server

PROVISION = str(Path(sys.executable).with_name("provision"))
WITHIN_S = 60.0

Child = subprocess.Popen[bytes] | Started

needs_sshd = shutil.which("sshd") or os.path.exists("/usr/sbin/sshd")


@functools.cache
def warm_start() -> WarmStart:
    """What starts commands for all tests of this process."""
    return WarmStart()


def start_provision(
    words: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    out: BinaryIO,
    err: BinaryIO,
    is_cold: bool = False,
    prefix: Sequence[str] = (),
) -> Child:
    """The published command, in a process and a session of its own, with nothing on stdin.

    Args:
        is_cold: Start python and import all that it wants anew, as a shell does. A *prefix* means that too.
    """
    if not is_cold and not prefix:
        return warm_start().start(
            words, folder=folder, environment=environment, out=out.fileno(), err=err.fileno()
        )
    return subprocess.Popen(
        [*prefix, PROVISION, *words],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        start_new_session=True,
    )


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What ``--json`` printed."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def outcome(self) -> dict[str, Any]:
        last = self.lines[-1]
        assert last["event"] == "outcome", last
        return last

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


class Here:
    """This side: a folder of its own for state and logs, and the command line."""

    def __init__(self, folder: Path, instance: EmbeddedInstance) -> None:
        self.folder = folder
        self.instance = instance
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "XDG_STATE_HOME": str(folder / "state"),
            "LANG": "C.UTF-8",
        }
        self.is_cold = False
        """Every command starts cold: see `start_provision`."""
        (folder / "home").mkdir(parents=True)
        self._children: dict[Child, Path] = {}

    def profile(self, text: str, name: str = "profile.yaml") -> str:
        """Write a profile; returns its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def connection(
        self,
        *,
        to: EmbeddedInstance | None = None,
        port: int | None = None,
        key: Path | str | None = None,
    ) -> list[str]:
        """How to reach *to*, or this test's instance."""
        instance = to or self.instance
        return [
            "--host", f"{instance.user}@{instance.host}:{port or instance.port}",
            "--key", str(key or instance.key_path),
            "--boot-grace", "10s",
        ]  # fmt: skip

    def spawn(self, *words: str, environment: Mapping[str, str] | None = None) -> Child:
        """Start the published command and leave it running; with an *environment* of its own it starts cold."""
        stem = self.folder / f"command{len(self._children)}"
        with stem.with_suffix(".out").open("wb") as out, stem.with_suffix(".err").open("wb") as err:
            child = start_provision(
                words,
                folder=self.folder,
                environment={**self.environment, **(environment or {})},
                is_cold=self.is_cold or environment is not None,
                out=out,
                err=err,
            )
        self._children[child] = stem
        return child

    def said(self, child: Child) -> str:
        """What a running command has printed so far."""
        return self._children[child].with_suffix(".out").read_text()

    def complained(self, child: Child) -> str:
        """What a running command has written to stderr so far."""
        return self._children[child].with_suffix(".err").read_text()

    def finish(self, child: Child, within_s: float = WITHIN_S) -> Finished:
        code = child.wait(timeout=within_s)
        return Finished(code, self.said(child), self._children[child].with_suffix(".err").read_text())

    def run(self, *words: str, within_s: float = WITHIN_S, **kwargs: Any) -> Finished:
        return self.finish(self.spawn(*words, **kwargs), within_s)

    def spawn_up(
        self, profile: str, *words: str, connection: list[str] | None = None, **kwargs: Any
    ) -> Child:
        where = self.connection() if connection is None else connection
        return self.spawn(
            "up",
            *where,
            "--profile",
            profile,
            "--workspace",
            str(self.instance.workspace),
            "--json",
            *words,
            **kwargs,
        )

    def up(self, profile: str, *words: str, within_s: float = WITHIN_S, **kwargs: Any) -> Finished:
        """``provision up … --json`` to its end."""
        return self.finish(self.spawn_up(profile, *words, **kwargs), within_s)

    # -- what is on both sides

    def remote(self, run: str, name: str) -> Path:
        return self.instance.workspace / ".provision" / "runs" / run / name

    def agent_events(self, run: str) -> list[dict[str, Any]]:
        """The events as the agent wrote them, on the instance."""
        lines = self.remote(run, "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def local_events(self, run: str) -> list[dict[str, Any]]:
        """This side's events as they stand in their file."""
        path = sorted((self.folder / "logs").glob(f"provision_{run}_*.collector.jsonl"))[-1]
        return [json.loads(line) for line in path.read_text().splitlines()]

    def connections(self, run: str) -> int:
        """How often a watcher that writes the mirrors was connected."""
        return sum(1 for event in self.local_events(run) if event["event"] == "connected")

    def lock(self) -> dict[str, Any]:
        return dict(json.loads((self.instance.workspace / ".provision" / "lock").read_text()))

    def assert_mirrored(self, outcome: Mapping[str, Any]) -> None:
        """The local mirrors are the remote files, byte for byte, and the agent's sequence has no gap."""
        run = outcome["run"]
        pairs = {
            "core": self.remote(run, "core.log"),
            "events": self.remote(run, "events.jsonl"),
            "errors": self.instance.workspace / "provision_errors.log",
        }
        for name, remote in pairs.items():
            assert Path(outcome["logs"][name]).read_bytes() == remote.read_bytes(), name
        for events in (self.agent_events(run), self.local_events(run)):
            assert [event["seq"] for event in events] == list(range(1, len(events) + 1))

    def close(self) -> None:
        for child in self._children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@pytest.fixture(autouse=True)
def _servers_on_postgres(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With $PROVISION_TEST_POSTGRES every server of the tests has a PostgreSQL database, not a file."""
    if os.environ.get("PROVISION_TEST_POSTGRES"):
        from .server import Server

        monkeypatch.setattr(Server, "new_database", request.getfixturevalue("postgres").database)


@pytest.fixture
def instance_environment() -> dict[str, str]:
    """What every login on the instance has in its environment; a test module may have more."""
    return {}


@pytest.fixture
def instance(tmp_path: Path, instance_environment: dict[str, str]) -> Iterator[EmbeddedInstance]:
    """A fresh instance behind a real sshd. Without one the test is skipped; in CI that is a failure."""
    if not needs_sshd:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no sshd on this machine")
    with EmbeddedInstance(tmp_path / "instance", server="sshd", environment=instance_environment) as instance:
        yield instance


@pytest.fixture
def second(
    tmp_path: Path, instance: EmbeddedInstance, instance_environment: dict[str, str]
) -> Iterator[EmbeddedInstance]:
    """Another instance, with a home, a workspace and a key of its own."""
    with EmbeddedInstance(tmp_path / "second", server="sshd", environment=instance_environment) as second:
        yield second


@pytest.fixture
def here(tmp_path: Path, instance: EmbeddedInstance) -> Iterator[Here]:
    here = Here(tmp_path / "here", instance)
    yield here
    here.close()


@pytest.fixture
def cold(here: Here) -> None:
    """Commands start as a shell starts them, where it is measured what they take."""
    here.is_cold = True


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and collectors in this very process remember nothing outside of the test's folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def case(here: Here) -> Iterator[Case]:
    """A log with its writer, and the way to collect it."""
    from .collecting import case_of

    with case_of(here) as made:
        yield made


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A `provision serve` of the test's own."""
    from .server import Server

    made = Server(tmp_path / "server")
    made.start()
    yield made
    made.close()


def instance_of(embedded: EmbeddedInstance, folder: Path) -> Instance:
    """How the library reaches it; the host key that it sees is kept in *folder*."""
    return Instance(
        embedded.host,
        port=embedded.port,
        user=embedded.user,
        key=str(embedded.key_path),
        known_hosts=str(folder / "known_hosts"),
    )


def eventually(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    """Wait for *condition* to be true; its value."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if value := condition():
                return value
        except (OSError, ValueError, KeyError, IndexError):
            pass
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s:.0f} s: {condition}")
