"""Put the agent on the instance and ask it something, in one exec: no SFTP, no shell script, no second round trip.

The archive is stored under its hash, under a temporary name first, and never replaced: a run keeps its file
through every restart. Requests, with the secrets in them, go through stdin only. Every answer is parsed before anybody
sees it, off the event loop: it may be long.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from provision_agent.contract.cases import CASES
from provision_agent.contract.events import UnknownFormatError
from provision_agent.contract.failures import FAILURES
from provision_agent.contract.frames import AGENT_MAGIC, ANSWER_MAGIC, NO_PYTHON
from provision_agent.contract.loading import loader
from provision_agent.contract.messages import MAX_PATH_CHARS, RequestFailedError, read_answer
from provision_agent.contract.parsing import ParseError, bounded, parse, read_object, to_json

from ..errors import HostUnreachableError, ProtocolFaultError, ProvisionError
from .bundle import Bundle, build_bundle
from .flag import Flag

if TYPE_CHECKING:
    from .channel import Channel
    from .connection import Connection

HELLO_TIMEOUT_S = 30.0
"""Until the first word of ours comes back; login shells of rented images load conda and nvm first."""
MAX_ANSWER_BYTES = 32 << 20
MAX_HELLO_BYTES = 64 << 10
SPOKEN_OVER = "see what its login shell runs: something there may speak in the agent's place"

T = TypeVar("T")
Json = Mapping[str, object]

PYTHONS = (
    "python3",
    *(f"python3.{minor}" for minor in range(14, 7, -1)),
    "/venv/main/bin/python",
    "/opt/conda/bin/python3",
    "python",
)

BOOTSTRAP = r"""
import hashlib, json, os, stat, sys
def line():
    got = b""
    while not got.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte: sys.exit(1)
        got += byte
    return json.loads(got)
def say(**facts):
    os.write(1, b"\n\x02provision-agent " + json.dumps(facts).encode() + b"\n")
def check(path, found, ours):
    if found.st_uid not in ours: raise OSError(1, "%s belongs to another user (uid %d)" % (path, found.st_uid))
def opened(folder):
    "A descriptor of the folder: it and the one above it are ours, no links, and nobody else may write there."
    above = os.path.dirname(folder)
    os.makedirs(os.path.dirname(above), exist_ok=True)
    at = os.open(os.path.dirname(above), os.O_RDONLY | os.O_DIRECTORY)
    for path in above, folder:
        name = os.path.basename(path)
        try: os.mkdir(name, 0o700, dir_fd=at)
        except FileExistsError:
            if stat.S_ISLNK(os.lstat(name, dir_fd=at).st_mode): raise OSError(1, path + " is a link")
        inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
        probe = "probe.%d" % os.getpid()
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=inside))
        made = os.lstat(probe, dir_fd=inside)
        os.unlink(probe, dir_fd=inside)
        check(path, os.fstat(inside), (os.geteuid(), made.st_uid))
        os.fchmod(inside, 0o700)
        os.close(at)
        at = inside
    return at
head = line()
problems = []
for folder in head["folders"]:
    folder = os.path.abspath(os.path.expanduser(folder))
    try:
        at = opened(folder)
        break
    except OSError as error:
        problems.append(error.strerror if error.errno == 1 else "%s: %s" % (folder, error.strerror))
else:
    say(error="; ".join(problems))
    sys.exit(1)
name = head["sha256"] + ".pyz"
path = os.path.join(folder, name)
def whole():
    "A descriptor of the archive, if it is what was sent and nobody else's; it runs from that, whatever becomes of the name."
    try: file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at)
    except OSError: return None
    found, digest = os.fstat(file), hashlib.sha256()
    while True:
        data = os.read(file, 1 << 20)
        if not data: break
        digest.update(data)
    if digest.hexdigest() == head["sha256"] and found.st_uid == os.fstat(at).st_uid and found.st_nlink == 1: return file
    os.close(file)
file = whole()
say(have=file is not None, python=sys.executable, path=path)
if file is None:
    left, temporary = head["size"], "%s.%d.tmp" % (name, os.getpid())
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=at), "wb") as out:
            while left:
                data = os.read(0, min(left, 65536))
                if not data: os.unlink(temporary, dir_fd=at); sys.exit(1)
                out.write(data)
                left -= len(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, name, src_dir_fd=at, dst_dir_fd=at)
    except OSError as error:
        try: os.unlink(temporary, dir_fd=at)
        except OSError: pass
        say(error="%s: %s" % (path, error.strerror), full=error.errno in (28, 122))
        sys.exit(1)
    file = whole()
    if file is None:
        say(error=path + " is not what was sent: the disk or the memory of this instance is broken")
        sys.exit(1)
os.lseek(file, 0, 0)
os.set_inheritable(file, True)
verified = "%s@%d" % (head["sha256"], file)
os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", head["loader"], path, verified] + head["arguments"])
"""


@dataclass(frozen=True)
class Deployment:
    """Where the agent lies on the instance, which it is, and which python runs it."""

    python: str
    path: str
    sha256: str

    def command(self, *arguments: str) -> str:
        """The shell command that runs the agent, and no other file that may lie in its place by then."""
        return _command((self.python, "-I", "-S", "-c", loader(), self.path, self.sha256, *arguments))


@lru_cache(16)
def _command(words: tuple[str, ...]) -> str:
    """The same text for all runs that say the same: it is 2 kB long, and each of them keeps it."""
    return f"exec {shlex.join(words)}"


@dataclass(frozen=True)
class _Hello:
    """The bootstrap's word: it `have`s the agent at `path`, or why (`error`) it cannot be stored."""

    have: bool = False
    python: str = bounded("", max_chars=MAX_PATH_CHARS)
    path: str = bounded("", max_chars=MAX_PATH_CHARS)
    error: str = ""
    full: bool = False


async def call(
    connection: Connection,
    *,
    folders: Sequence[str],
    arguments: Sequence[str],
    request: object,
    read: Callable[[Json], T],
    timeout_s: float,
) -> tuple[Deployment, T]:
    """Make sure the agent is there, run it with *arguments*, hand it *request*, and return its answer.

    Args:
        folders: Where the agent may be stored, the best first.
        request: A dataclass of `contract.messages`.
        read: Makes the answer of its JSON object; it may raise ParseError, and runs in a thread.
        timeout_s: How long the answer may take, in seconds.

    Raises:
        HostUnreachableError: no exec, no python3, no hello, the connection was lost.
        ProtocolFaultError: the answer is none. ProvisionError: no folder can be written, or it could not be done.
    """
    talk = _Talk()
    from .channel import Channel

    channel = await Channel.open(connection, python_command(BOOTSTRAP), on_bytes=talk.take)
    talk.channel = channel
    try:
        # while the instance looks for its python
        bundle, order = await asyncio.to_thread(
            lambda: (build_bundle(), json.dumps(to_json(request)).encode())
        )
        channel.write(_head(bundle, folders, arguments))
        hello = _understood(_read_hello, await talk.next(AGENT_MAGIC, HELLO_TIMEOUT_S))
        if hello.error:
            raise _not_stored(hello)
        channel.write(b"" if hello.have else bundle.data)
        channel.write(order)
        channel.end_input()
        line = await talk.next(ANSWER_MAGIC, timeout_s)
    finally:
        channel.abort()
    return Deployment(hello.python, hello.path, bundle.sha256), await asyncio.to_thread(
        understood, read, line
    )


def as_answer(kind: type[T]) -> Callable[[Json], T]:
    """What `call` and `ask` want as *read* where the answer is one dataclass."""
    return lambda data: read_answer(kind, data)


def understood(read: Callable[[Json], T], line: bytes) -> T:
    """The answer that *read* makes of a JSON *line* of the agent.

    Raises:
        ProtocolFaultError: it makes none. ProvisionError: the agent says that it could not be done.
    """
    return _understood(
        lambda data: read(read_object(data, max_bytes=MAX_ANSWER_BYTES, what="the answer")), line
    )


def _understood(read: Callable[[bytes], T], line: bytes) -> T:
    try:
        return read(line)
    except UnknownFormatError as error:
        raise ProtocolFaultError(error, hint=CASES["other_version"].hint) from None
    except RequestFailedError as failed:
        raise ProvisionError(str(failed), hint=failed.hint, cause=failed.class_) from None
    except ParseError as error:
        raise ProtocolFaultError(error, hint=f"{FAILURES['protocol'].hint}; {SPOKEN_OVER}") from None


def _head(bundle: Bundle, folders: Sequence[str], arguments: Sequence[str]) -> bytes:
    return json.dumps(head_of(bundle, folders, arguments)).encode() + b"\n"


def head_of(bundle: Bundle, folders: Sequence[str], arguments: Sequence[str]) -> dict[str, object]:
    """What `BOOTSTRAP` reads first.

    Args:
        folders: Where the agent may be stored, the best first.
        arguments: What it is started with.
    """
    return {
        "sha256": bundle.sha256,
        "size": len(bundle.data),
        "folders": list(folders),
        "arguments": list(arguments),
        "loader": loader(),
    }


def _read_hello(line: bytes) -> _Hello:
    hello = parse(_Hello, read_object(line, max_bytes=MAX_HELLO_BYTES, what="the hello"), "hello")
    if not hello.error and not (hello.python and hello.path):
        raise ParseError("the hello does not say where the agent lies")
    return hello


def _not_stored(said: _Hello) -> ProvisionError:
    class_ = "disk_full" if said.full else "read_only"
    return ProvisionError(
        f"the agent cannot be stored: {said.error}", hint=FAILURES[class_].hint, cause=class_
    )


class _Talk:
    """What came back so far, and the marked lines in it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        """So much of the buffer was looked at, in the search for what comes next."""
        self._line_at = -1
        """Where the line after the mark begins, once the mark is there."""
        self._arrived = Flag()
        self._is_flood = False
        self.channel: Channel | None = None

    def take(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()
        if len(self._buffer) > MAX_ANSWER_BYTES and self.channel is not None:
            self._is_flood = True
            self.channel.abort()

    async def next(self, mark: bytes, timeout_s: float) -> bytes:
        """The line after the next *mark*."""
        from .channel import any_of

        assert self.channel is not None
        try:
            async with asyncio.timeout(timeout_s):
                while (line := self._cut(mark)) is None:
                    if self.channel.ended.is_set() or self._is_flood:
                        raise self._ended()
                    self._arrived.clear()
                    await any_of(self._arrived, self.channel.ended)
        except TimeoutError:
            raise HostUnreachableError(
                f"the instance did not answer within {timeout_s:.0f} s{self._noise()}",
                cause="timed-out",
                hint="see whether `ssh` to it is as slow, and what its shell prints at login",
            ) from None
        return line

    def _cut(self, mark: bytes) -> bytes | None:
        """The line after *mark*, without what came before; each byte is looked at once, however they arrive."""
        if self._line_at < 0:
            self._check_python()
            found = self._buffer.find(mark, max(self._searched - len(mark), 0))
            if found >= 0:
                self._line_at = self._searched = found + len(mark)
        end = self._buffer.find(b"\n", self._searched) if self._line_at >= 0 else -1
        self._searched = len(self._buffer)
        if end < 0:
            return None
        line = bytes(self._buffer[self._line_at : end])
        del self._buffer[:end]
        self._searched, self._line_at = 0, -1
        return line

    def _check_python(self) -> None:
        if self._buffer.find(NO_PYTHON, max(self._searched - len(NO_PYTHON), 0)) >= 0:
            raise no_python()

    def _noise(self) -> str:
        assert self.channel is not None
        said = (self._buffer[-4096:].decode("utf-8", "replace").strip() or self.channel.stderr)[-300:]
        return f"; it said: {said}" if said else ""

    def _ended(self) -> ProvisionError:
        assert self.channel is not None
        if self._is_flood:
            return ProtocolFaultError(
                f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB", hint=SPOKEN_OVER
            )
        trouble = self._buffer.partition(AGENT_MAGIC)[2].partition(b"\n")[0]
        if trouble:
            hello = _understood(_read_hello, bytes(trouble))
            if hello.error:
                return _not_stored(hello)
        if self.channel.exit_status is None:
            return HostUnreachableError("the connection was lost", cause="reset")
        return HostUnreachableError(
            f"the instance did not run the agent (exit status {self.channel.exit_status}){self._noise()}",
            cause="no-exec",
        )


def no_python() -> HostUnreachableError:
    """What `NO_PYTHON` in the answer means."""
    return HostUnreachableError("there is no python3 of at least 3.8 on the instance", cause="no-python")


def python_command(program: str, *, oldest: tuple[int, int] = (3, 8)) -> str:
    """The shell command that finds a python3 which is new enough, and runs *program* by it; its stdin and stdout are the program's.

    One line that any login shell hands on unchanged. Where there is no such python3 it prints `NO_PYTHON`.

    Args:
        program: Python source.
        oldest: The oldest version that will do.
    """
    code = base64.b64encode(program.encode()).decode()
    start = f'import base64; exec(base64.b64decode("{code}"))'
    test = f"import sys; sys.exit(sys.version_info < {oldest})"
    script = (
        f'for p in {" ".join(PYTHONS)}; do if "$p" -I -S -c "{test}" 2>/dev/null; then exec "$p" -I -S -c "$0"; fi; done; '
        'printf "\\n\\002provision-no-python\\n"; exit 127'
    )
    return f"exec sh -c {shlex.quote(script)} {shlex.quote(start)}"
