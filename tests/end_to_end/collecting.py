"""One log, one writer with its own record, one collector: what the tests of `collect` stand on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from harness import log_writer

from .conftest import Child, Finished, Here, eventually

END = "✅ PROVISIONING COMPLETE"


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

    def written(self, *steps: str, seed: int = 1, within_s: float = 20.0) -> None:
        """Run a writer to its end."""
        assert self.write(*steps, seed=seed).wait(timeout=within_s) == 0

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

    def collected(self, *words: str, within_s: float = 28.0, **kwargs: object) -> Finished:
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

    def await_all(self, within_s: float = 20.0) -> None:
        eventually(self.has_arrived, within_s)

    def await_written(self, within_s: float = 25.0) -> None:
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
