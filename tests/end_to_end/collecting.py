"""One log, one writer with its own record, one collector: what the tests of `collect` stand on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
from harness import log_writer
from harness.tcp_proxy import TcpProxy
from provision_collector.collect.collect import CollectOrder, LogToCollect, collect
from provision_collector.instance import Instance

from .conftest import Child, Finished, Here, eventually

END = "✅ PROVISIONING COMPLETE"
LONG_S = "300"
"""A collector's timeout in the tests that take long."""


def count(usual: int, full: int) -> list[Any]:
    """Two values of a parameter: one for every day, and the row's own for the soak."""
    return [usual, pytest.param(full, marks=pytest.mark.soak)]


def without_right(why_not: str) -> NoReturn:
    """What this test needs is not permitted here: it is skipped; in CI it fails."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why_not)


class Case:
    """The log of one writer on the instance, and its mirror here."""

    def __init__(self, here: Here, name: str = "app.log") -> None:
        self.here = here
        self.log = here.instance.workspace / name
        self.record = here.folder / f"{name}.record"
        self.mirror = here.folder / f"{name}.mirror"
        self.log.parent.mkdir(exist_ok=True)
        self.mirror.parent.mkdir(exist_ok=True)
        self._writers: list[subprocess.Popen[bytes]] = []

    def write(self, *steps: str, seed: int = 1) -> subprocess.Popen[bytes]:
        """Start a writer; it goes on by itself."""
        command = [
            sys.executable,
            str(log_writer.__file__),
            str(self.log),
            str(self.record),
            str(seed),
            *steps,
        ]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._writers.append(child)
        return child

    def written(self, *steps: str, seed: int = 1, within_s: float = 60.0) -> None:
        """Run a writer to its end."""
        assert self.write(*steps, seed=seed).wait(timeout=within_s) == 0

    def append(self, data: bytes) -> None:
        """Write *data* now, from here."""
        for path in (self.log, self.record):
            with path.open("ab") as file:
                file.write(data)

    def go(self, name: str) -> str:
        """A step that waits for `let(name)`."""
        return f"wait:{self.here.folder / name}"

    def let(self, name: str) -> None:
        (self.here.folder / name).touch()

    def collect(self, *words: str, connection: list[str] | None = None, timeout: str = "60") -> Child:
        """Start ``provision collect … --json``."""
        where = self.here.connection() if connection is None else connection
        return self.here.spawn(
            "collect", *where, "--remote-log", str(self.log), "--output", str(self.mirror),
            "--timeout", timeout, "--json", *words,
        )  # fmt: skip

    def collected(self, *words: str, within_s: float = 60.0, **kwargs: object) -> Finished:
        return self.here.finish(self.collect(*words, **kwargs), within_s)  # type: ignore[arg-type]

    def watch(self, *words: str, **kwargs: object) -> Child:
        """Start a collector that has seen the log, so that whatever is written next is news."""
        if not self.log.exists():
            self.written("end:the first line")
        child = self.collect(*words, **kwargs)  # type: ignore[arg-type]
        self.await_all()
        return child

    def has_arrived(self) -> bool:
        """Every byte that was written is in the mirror."""
        return self.mirror.exists() and self.mirror.stat().st_size == self.record.stat().st_size

    def await_all(self, within_s: float = 60.0) -> None:
        eventually(self.has_arrived, within_s)

    def await_progress(self, child: Child, before: int, within_s: float = 60.0) -> None:
        """The mirror is no more as long as *before*, or everything is in it."""
        try:
            eventually(lambda: self.mirror.stat().st_size != before or self.has_arrived(), within_s)
        except AssertionError:
            sizes = [path.stat().st_size if path.exists() else None for path in (self.mirror, self.record)]
            raise AssertionError(f"mirror and record {sizes}; it said: {self.here.said(child)}") from None

    def took_ms(self, within_s: float = 60.0) -> float:
        """How long it takes, from now, until everything has arrived."""
        began = time.monotonic()
        while not self.has_arrived() and time.monotonic() < began + within_s:
            time.sleep(0.001)
        assert self.has_arrived()
        return (time.monotonic() - began) * 1000

    def await_written(self, within_s: float = 60.0) -> None:
        """Every writer has done its steps."""
        assert [child.wait(timeout=within_s) for child in self._writers] == [0] * len(self._writers)

    def assert_exact(self) -> None:
        """The mirror is the writer's own record, byte for byte."""
        mirror, record = self.mirror.read_bytes(), self.record.read_bytes()
        if mirror != record:
            at = next(
                (i for i, (a, b) in enumerate(zip(mirror, record, strict=False)) if a != b),
                min(len(mirror), len(record)),
            )
            raise AssertionError(
                f"they differ from byte {at}: {len(mirror)} mirrored, {len(record)} written; "
                f"mirror {mirror[max(at - 60, 0) : at + 60]!r}, record {record[max(at - 60, 0) : at + 60]!r}"
            )

    def assert_complete(self, done: Finished, *, gaps: int = 0) -> None:
        assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout + done.stderr
        assert len(done.outcome["gaps"]) == gaps, done.outcome["gaps"]
        self.assert_exact()

    def close(self) -> None:
        for child in self._writers:
            if child.poll() is None:
                child.kill()
            child.wait()


@contextmanager
def case_of(here: Here, name: str = "app.log") -> Iterator[Case]:
    made = Case(here, name)
    yield made
    made.close()


@contextmanager
def cases_of(here: Here, count: int) -> Iterator[list[Case]]:
    """Several logs, each with its own writer and its own folder."""
    with ExitStack() as stack:
        yield [stack.enter_context(case_of(here, f"log{number}/app.log")) for number in range(count)]


def watch_all(cases: list[Case], *words: str) -> Child:
    """One collector of all logs, which has seen them when this returns."""
    others = [
        word for case in cases[1:] for word in ("--remote-log", str(case.log), "--output", str(case.mirror))
    ]
    for case in cases:
        if not case.log.exists():
            case.written("end:the first line")
    child = cases[0].collect(*others, *words)
    for case in cases:
        case.await_all()
    return child


def kill(child: Child) -> None:
    """SIGKILL a collector, and wait until it is gone."""
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def ended_as_they_began(cases: list[Case], child: Child) -> None:
    """When every writer is done, every mirror is exact; then the first log says the end."""
    for case in cases:
        case.await_written()
        case.await_all()
    cases[0].written(f"end:{END}", seed=99)
    done = cases[0].here.finish(child)
    assert (done.code, done.outcome["gaps"]) == (0, []), done.stdout + done.stderr
    for case in cases:
        case.assert_exact()


def through(case: Case, proxy: TcpProxy) -> list[str]:
    return case.here.connection(port=proxy.port)


def said_gap(case: Case, child: Child) -> bool:
    return '"gap"' in case.here.said(child)


def follower_pids(case: Case) -> list[int]:
    """The followers that run on the instance."""
    found = []
    for pid in case.here.instance.processes:
        with suppress(OSError):  # it ended while we looked
            found += [pid] if b"b64decode" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return found


# -- a collector in this process


def reached(here: Here, *, port: int | None = None) -> Instance:
    instance = here.instance
    return Instance(instance.host, port=port or instance.port, user=instance.user, key=str(instance.key_path))


async def collected_here(case: Case, instance: Instance, **limits: Any) -> dict[str, Any]:
    """The outcome of a collector in this process."""
    order = CollectOrder((LogToCollect(str(case.log), case.mirror),), **limits)
    return await collect(instance, order, on_event=lambda _: None)


async def until(condition: Callable[[], Any], within_s: float = 60.0) -> None:
    """Wait for *condition* while a collector in this process goes on."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)
