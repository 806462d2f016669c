"""Put the agent on the instance and ask it something, in one exec: no SFTP, no shell script, no second round trip.

The archive is stored under its hash, under a temporary name first, and never replaced: a run keeps its file
through every restart. Requests, with the secrets in them, go through stdin only.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision_agent.contract import version
from provision_agent.contract.failures import FAILURES
from provision_agent.contract.frames import AGENT_MAGIC, ANSWER_MAGIC, NO_PYTHON

from ..errors import HostUnreachableError, ProvisionError
from .bundle import Bundle
from .channel import Channel
from .connection import Connection

HELLO_TIMEOUT_S = 30.0
"""Until the first word of ours comes back; login shells of rented images load conda and nvm first."""
MAX_ANSWER_BYTES = 32 << 20


_PYTHONS = (
    "python3",
    *(f"python3.{minor}" for minor in range(14, 7, -1)),
    "/venv/main/bin/python",
    "/opt/conda/bin/python3",
    "python",
)

_BOOTSTRAP = r"""
import hashlib, json, os, sys
def line():
    got = b""
    while not got.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte: sys.exit(1)
        got += byte
    return json.loads(got)
def say(**facts):
    os.write(1, b"\n\x02provision-agent " + json.dumps(facts).encode() + b"\n")
head = line()
problems = []
for folder in head["folders"]:
    folder = os.path.abspath(os.path.expanduser(folder))
    try:
        os.makedirs(folder, exist_ok=True)
        for each in (folder, os.path.dirname(folder)): os.chmod(each, 0o700)
        probe = os.path.join(folder, "probe.%d" % os.getpid())
        open(probe, "wb").close()
        os.unlink(probe)
        break
    except OSError as error:
        problems.append("%s: %s" % (folder, error.strerror))
else:
    say(error="; ".join(problems))
    sys.exit(1)
path = os.path.join(folder, head["sha256"] + ".pyz")
def is_whole():
    try:
        with open(path, "rb") as file: return hashlib.sha256(file.read()).hexdigest() == head["sha256"]
    except OSError: return False
have = is_whole()
say(have=have, python=sys.executable, path=path)
if not have:
    left, temporary = head["size"], "%s.%d.tmp" % (path, os.getpid())
    try:
        with open(temporary, "wb") as file:
            os.chmod(temporary, 0o600)
            while left:
                data = os.read(0, min(left, 65536))
                if not data: os.unlink(temporary); sys.exit(1)
                file.write(data)
                left -= len(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary): os.unlink(temporary)
        say(error="%s: %s" % (path, error.strerror), full=error.errno in (28, 122))
        sys.exit(1)
    if not is_whole():
        say(error=path + " is not what was sent: the disk or the memory of this instance is broken")
        sys.exit(1)
os.execv(sys.executable, [sys.executable, "-I", "-S", path] + head["arguments"])
"""


@dataclass(frozen=True)
class Deployment:
    """Where the agent lies on the instance and which python runs it."""

    python: str
    path: str

    def command(self, *arguments: str) -> str:
        """The shell command that runs the agent."""
        return "exec " + shlex.join([self.python, "-I", "-S", self.path, *arguments])


async def call(
    connection: Connection,
    bundle: Bundle,
    *,
    folders: Sequence[str],
    arguments: Sequence[str],
    request: Mapping[str, Any],
    timeout_s: float,
) -> tuple[Deployment, dict[str, Any]]:
    """Make sure the agent is there, run it with *arguments*, hand it *request*, and return its answer.

    Raises:
        HostUnreachableError: no exec, no python3, no hello, the connection was lost.
        ProvisionError: no folder can be written, or the agent answered nonsense.
    """
    talk = _Talk()
    channel = await Channel.open(connection, python_command(_BOOTSTRAP), on_bytes=talk.take)
    talk.channel = channel
    head = {
        "sha256": bundle.sha256,
        "size": len(bundle.data),
        "folders": list(folders),
        "arguments": list(arguments),
    }
    try:
        channel.write(json.dumps(head).encode() + b"\n")
        hello = await talk.next(AGENT_MAGIC, HELLO_TIMEOUT_S)
        if "error" not in hello:
            if not hello.keys() >= {"have", "python", "path"}:
                raise talk.nonsense()
            channel.write(b"" if hello["have"] else bundle.data)
            channel.write(json.dumps(request).encode())
            channel.end_input()
            answer = await talk.next(ANSWER_MAGIC, timeout_s)
    finally:
        channel.abort()
    if "error" in hello:
        raise _not_stored(hello)
    if answer.get("format") not in version.SUPPORTED_FORMATS:
        raise ProvisionError(
            f"the agent speaks format {answer.get('format')}, this side {version.SUPPORTED_FORMATS[0]} to {version.FORMAT}",
            hint="use one version of provision for one instance",
        )
    return Deployment(str(hello["python"]), str(hello["path"])), answer


def _not_stored(said: Mapping[str, Any]) -> ProvisionError:
    class_ = "disk_full" if said.get("full") else "read_only"
    return ProvisionError(
        f"the agent cannot be stored: {said['error']}", hint=FAILURES[class_].hint, cause=class_
    )


class _Talk:
    """What came back so far, and the marked lines in it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self.channel: Channel | None = None

    def take(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()
        if len(self._buffer) > MAX_ANSWER_BYTES and self.channel is not None:
            self.channel.abort()

    async def next(self, mark: bytes, timeout_s: float) -> dict[str, Any]:
        """The object after the next *mark*."""
        assert self.channel is not None
        try:
            async with asyncio.timeout(timeout_s):
                while (line := self._cut(mark)) is None:
                    if NO_PYTHON in self._buffer:
                        raise no_python()
                    if self.channel.ended.is_set():
                        trouble = self._cut(AGENT_MAGIC)
                        raise _not_stored(json.loads(trouble)) if trouble else self._ended()
                    await self._something_happened()
        except TimeoutError:
            raise HostUnreachableError(
                f"the instance did not answer within {timeout_s:.0f} s{self._noise()}",
                cause="timed-out",
                hint="see whether `ssh` to it is as slow, and what its shell prints at login",
            ) from None
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            raise self.nonsense() from None

    def nonsense(self) -> HostUnreachableError:
        """What comes from there is none of ours."""
        return HostUnreachableError(
            f"the instance answered nonsense{self._noise()}",
            hint="look at what its login shell runs: something there speaks in the agent's place",
        )

    async def _something_happened(self) -> None:
        assert self.channel is not None
        self._arrived.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._arrived, self.channel.ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _cut(self, mark: bytes) -> bytes | None:
        start = self._buffer.find(mark)
        end = self._buffer.find(b"\n", start + len(mark))
        if start < 0 or end < 0:
            return None
        line = bytes(self._buffer[start + len(mark) : end])
        del self._buffer[:end]
        return line

    def _noise(self) -> str:
        assert self.channel is not None
        said = (self._buffer.decode("utf-8", "replace").strip() or self.channel.stderr)[-300:]
        return f"; it said: {said}" if said else ""

    def _ended(self) -> HostUnreachableError:
        assert self.channel is not None
        if self.channel.exit_status is None:
            return HostUnreachableError("the connection was lost", cause="reset")
        return HostUnreachableError(
            f"the instance did not run the agent (exit status {self.channel.exit_status}){self._noise()}",
            hint="a provider's proxy is often a terminal only: use the instance's direct SSH address and port",
            cause="no-exec",
        )


def no_python() -> HostUnreachableError:
    """What `NO_PYTHON` in the answer means."""
    return HostUnreachableError(
        "there is no python3 of at least 3.8 on the instance",
        hint="on the instance: `apt-get update && apt-get install -y python3`, then the same command again",
        cause="no-python",
    )


def python_command(program: str, *, oldest: tuple[int, int] = (3, 8)) -> str:
    """Find a python3 that is new enough and run *program* by it, in one line that any login shell hands on unchanged.

    Where there is none it prints `NO_PYTHON`. stdin and stdout are the program's.
    """
    code = base64.b64encode(program.encode()).decode()
    start = f'import base64; exec(base64.b64decode("{code}"))'
    test = f"import sys; sys.exit(sys.version_info < {oldest})"
    script = (
        f'for p in {" ".join(_PYTHONS)}; do if "$p" -I -S -c "{test}" 2>/dev/null; then exec "$p" -I -S -c "$0"; fi; done; '
        'printf "\\n\\002provision-no-python\\n"; exit 127'
    )
    return f"exec sh -c {shlex.quote(script)} {shlex.quote(start)}"
