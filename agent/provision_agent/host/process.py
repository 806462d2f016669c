"""Run a program to its end, within a bound, and keep what it last said.

The child is its own process group; when the bound passes or the run is cancelled the whole group gets TERM,
then KILL. Its output goes to the callback line by line (progress bars' carriage returns count as line ends)
and never through a shared pipe. Nothing is inherited but what the caller names.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

from ..contract.failures import Failure
from .fork import Child

TAIL_LINES = 20
KILL_AFTER_S = 10.0
MAX_LINE_BYTES = 64 * 1024


class Finished(NamedTuple):
    """How a program ended: its exit status (negative: the signal) and its last lines, both streams together."""

    status: int
    tail: List[str]
    duration_s: float

    def said(self, lines: int = 20) -> str:
        """Its last *lines* as one line, for people."""
        return said(self.tail, lines)


def said(tail: Sequence[str], lines: int) -> str:
    """The last *lines* of a program's *tail* as one line, for people; never nothing."""
    return " | ".join(tail[-lines:]).strip(" |") or "it said nothing"


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    directory: Optional[str] = None,
    environment: Optional[Mapping[str, str]] = None,
    on_line: Callable[[str], None] = lambda line: None,
    cancelled: Optional[threading.Event] = None,
    stdin: Optional[bytes] = None,
    keep_fds: Sequence[int] = (),
) -> Finished:
    """Run *argv* and wait for it; whatever it leaves of its process group is ended.

    Args:
        timeout_s: When it is ended if it has not.
        directory: Where it runs; None: here.
        environment: All of it; None: this process's own.
        on_line: Told each line of its output, both streams together.
        cancelled: Ends it early when set.
        stdin: What it reads; None: nothing.
        keep_fds: Descriptors that it inherits.

    Raises:
        Failure: `timed_out` when the bound passed, `command` when the program is not there.
    """
    started = time.monotonic()
    tail: "deque[str]" = deque(maxlen=TAIL_LINES)
    try:
        child = subprocess.Popen(
            list(argv),
            cwd=directory,
            env=dict(environment) if environment is not None else None,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keep_fds),
        )
    except OSError as error:
        raise Failure(
            "command",
            f"cannot start `{argv[0]}`: {_why_not(argv[0], directory, error)}",
            case=_case_of(argv[0], directory, error),
            about={"program": argv[0]},
        ) from None
    try:
        if stdin is not None and child.stdin is not None:
            _feed(child.stdin, stdin)
        _collect(child, started + timeout_s, tail, on_line, cancelled)
        status = child.wait(timeout=max(0.1, started + timeout_s - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise Failure(
            "timed_out",
            f"`{' '.join(argv[:4])}` did not end within {timeout_s:.0f} s; last output: {' | '.join(list(tail)[-3:])}",
        ) from None
    finally:
        end_group(child)
        if child.stdout is not None:
            child.stdout.close()
    return Finished(status, list(tail), time.monotonic() - started)


def end_group(child: "Union[subprocess.Popen[bytes], Child]", *, kill_after_s: float = KILL_AFTER_S) -> None:
    """End what is left of the child's process group: TERM, then KILL. Safe to repeat.

    Args:
        kill_after_s: How long it has after TERM.
    """
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
        except (ProcessLookupError, PermissionError):
            break
        try:
            child.wait(timeout=kill_after_s)
        except subprocess.TimeoutExpired:
            continue
        if not _group_lives(child.pid, within_s=0.2):
            break
    child.wait()


def child_environment(extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The agent's own environment plus *extra*: the agent was started without any secret in it."""
    return dict(os.environ, **(extra or {}))


def _group_lives(group: int, *, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        time.sleep(0.01)
    return True


def _feed(pipe: "subprocess.IO[bytes]", data: bytes) -> None:  # type: ignore[name-defined]
    try:
        pipe.write(data)
        pipe.close()
    except BrokenPipeError:
        pass


def _collect(
    child: "subprocess.Popen[bytes]",
    deadline: float,
    tail: "deque[str]",
    on_line: Callable[[str], None],
    cancelled: Optional[threading.Event],
) -> None:
    assert child.stdout is not None
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        is_skipping = False
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            if cancelled is not None and cancelled.is_set():
                raise Failure("timed_out", "stopped: the run was ended", retriable=True)
            if not selector.select(timeout=min(left_s, 0.2)):
                if child.poll() is not None:
                    break  # a grandchild may hold the pipe open for ever; the program itself has ended
                continue
            chunk = os.read(child.stdout.fileno(), 65536)
            *lines, pending = (pending + chunk).replace(b"\r", b"\n").split(b"\n")
            if is_skipping and lines:
                is_skipping, lines = False, lines[1:]
            if is_skipping:
                pending = b""
            if len(pending) > MAX_LINE_BYTES:
                # cut where a space is: a secret has none, and half of one would pass redaction
                whole, space, rest = pending.rpartition(b" ")
                lines = [*lines, whole if space else b"(a long line without a space is left out here)"]
                pending, is_skipping = (rest, False) if space else (b"", True)
            for line in lines:
                _say(line, tail, on_line)
            if not chunk:
                break
    _say(pending, tail, on_line)


def _say(line: bytes, tail: "deque[str]", on_line: Callable[[str], None]) -> None:
    text = line.decode("utf-8", "replace").rstrip()
    if text:
        tail.append(text)
        on_line(text)


def _case_of(program: str, directory: Optional[str], error: OSError) -> str:
    """What helps when *program* cannot be started: a program that is installed, and a script of one's own, differ."""
    if directory is not None and not os.path.isdir(directory):
        return "no_folder"
    if isinstance(error, PermissionError):
        return "not_executable"
    return "no_script" if os.sep in program else "no_program"


def _why_not(program: str, directory: Optional[str], error: OSError) -> str:
    is_folder = directory is not None and not os.path.isdir(directory)
    return f"the folder `{directory}` is not there" if is_folder else str(error.strerror)
