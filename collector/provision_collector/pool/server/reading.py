"""Reading the profile of a request: a large one in a process of its own, one at a time, which is ended when it takes too long.

Python reads a large YAML for many seconds and holds its interpreter meanwhile: what is known to be quick is read in a
thread, and waits for no large one; everything else is read beside this process, and only so much of it waits.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from provision_agent.contract.buckets import Buckets
from provision_agent.contract.parsing import parse
from provision_agent.contract.plan import Plan

from ...errors import ProfileError, ProvisionError, UsageError
from .answers import BusyError, adapter_of
from .orders import Planned, RunRequest, planned

READ_WITHIN_S = 20.0
"""Of processor time: a busy machine is nobody's fault."""
ANSWER_WITHIN_S = 180.0
MOST_LARGE_BYTES = 2 << 20
"""Of large profiles together, that which is being read and those that wait."""
SMALL_BYTES = 16 << 10
FEW_EXPANSIONS = 40
"""Aliases and variables make much of little."""
MAX_LINE_BYTES = 64 << 20
MOST_PROBLEMS = 200
"""More of them nobody reads."""
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


@dataclass(frozen=True)
class Reading:
    """What the process is asked: one line of JSON."""

    request: RunRequest
    profiles: str | None
    scratch: str


@dataclass(frozen=True)
class ReadAnswer:
    """What it answers: a plan, or what is wrong."""

    plan: dict[str, object] | None = None
    buckets: dict[str, object] | None = None
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Of the profile."""
    message: str = ""
    """What cannot be meant by the request otherwise."""
    hint: str = ""
    bug: str = ""


@dataclass
class ProfileReader:
    """Makes plans of requests, one small and one large at a time.

    Args:
        profiles: Profiles that may be named. scratch: A folder of the server's own.
    """

    profiles: Path | None
    scratch: Path
    _process: asyncio.subprocess.Process | None = None
    _is_closed: bool = False
    _small_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _large_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _large_bytes: int = 0

    async def read(self, request: RunRequest) -> Planned:
        """Make the plan of *request*, within `READ_WITHIN_S`.

        Raises:
            ProfileError, UsageError: as `planned`, or it takes too long. BusyError: the server ends, or too much waits.
        """
        wanted = replace(request, secrets=None)
        text = await asyncio.to_thread(self._line, wanted)
        if _is_small(text):
            async with self._small_turn:
                if self._is_closed:
                    raise _ending()
                return await asyncio.to_thread(planned, wanted, profiles=self.profiles, scratch=self.scratch)
        if self._large_bytes and self._large_bytes + len(text) > MOST_LARGE_BYTES:
            raise BusyError(
                "this server is reading other large profiles",
                hint="send the same request again in a few seconds",
            )
        self._large_bytes += len(text)
        try:
            async with self._large_turn:
                if self._is_closed:
                    raise _ending()
                answer = await self._asked(text)
                return await asyncio.to_thread(_planned, answer)
        finally:
            self._large_bytes -= len(text)

    async def close(self) -> None:
        """End what is being read. Safe to repeat."""
        self._is_closed = True
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _line(self, request: RunRequest) -> bytes:
        profiles = str(self.profiles) if self.profiles is not None else None
        return adapter_of(Reading).dump_json(Reading(request, profiles, str(self.scratch)))

    async def _asked(self, line: bytes) -> bytes:
        process = self._process = self._process or await _started()
        assert process.stdin is not None
        assert process.stdout is not None
        is_in_step = False
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                process.stdin.write(line + b"\n")
                await process.stdin.drain()
                answer = await process.stdout.readuntil(b"\n")
            is_in_step = True
            return answer
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            with suppress(ProcessLookupError):
                if not isinstance(error, asyncio.IncompleteReadError):
                    process.kill()
            if self._is_closed:
                raise _ending() from None
            is_slow = isinstance(error, TimeoutError) or await process.wait() == -signal.SIGPROF
            raise UsageError(
                f"this server reads a profile for {READ_WITHIN_S:.0f} s at most, and this one takes longer"
                if is_slow
                else "this profile needs more memory than this server has for one",
                hint="make it smaller: fewer items, fewer aliases and variables",
            ) from None
        finally:
            if not is_in_step and self._process is process:
                self._process = None
                with suppress(ProcessLookupError):
                    process.kill()


async def _started() -> asyncio.subprocess.Process:
    """The process; it gets nothing of this one's environment that it does not need, and no secret."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", f"{__package__}.reading_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        limit=MAX_LINE_BYTES,
        start_new_session=True,  # Ctrl-C is this process's matter
    )


def _is_small(line: bytes) -> bool:
    return len(line) <= SMALL_BYTES and line.count(b"*") + line.count(b"${") <= FEW_EXPANSIONS


def _ending() -> ProvisionError:
    return BusyError("this server is ending", hint="ask again when it runs again")


def _planned(answer: bytes) -> Planned:
    said = adapter_of(ReadAnswer).validate_json(answer)
    if said.bug:
        raise RuntimeError(said.bug)
    if said.problems:
        raise ProfileError(said.problems)
    if said.plan is None:
        raise UsageError(said.message, hint=said.hint)
    buckets = parse(Buckets, said.buckets or {}, "buckets")
    return Planned(Plan.from_json(said.plan), said.warnings, buckets)
