"""An SSH server in this process, for machines without sshd; it runs commands as sshd would.

Bytes pass unchanged, the exit status is the program's, and a program outlives the connection that started it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from asyncio.streams import FlowControlMixin
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import IO

import asyncssh

START_TIMEOUT_S = 10.0
CHUNK_BYTES = 64 * 1024


class SshServer:
    """asyncssh's server half in a thread with its own event loop; stopped and started again on its port."""

    def __init__(
        self, *, port: int, host_key: Path, authorized_keys: Path, environment: Mapping[str, str], home: Path
    ) -> None:
        self._port = port
        self._host_key = host_key
        self._authorized_keys = authorized_keys
        self._environment = dict(environment)
        self._home = home
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def pids(self) -> list[int]:
        """None: the server is part of this process."""
        return []

    def start(self) -> None:
        """Listen on the port when this returns; raise what prevents it."""
        listening: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening)), name="ssh-server", daemon=True
        )
        self._thread.start()
        listening.result(START_TIMEOUT_S)

    def stop(self) -> None:
        """Cut every connection and listen no more; safe to repeat."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(START_TIMEOUT_S)

    async def _serve(self, listening: Future[None]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncssh.create_server(
                lambda: _Login(self._connections),
                "127.0.0.1",
                self._port,
                server_host_keys=[str(self._host_key)],
                authorized_client_keys=str(self._authorized_keys),
                process_factory=self._run,
                encoding=None,
                reuse_address=True,
                line_editor=False,
            )
        except (OSError, asyncssh.Error) as error:
            listening.set_exception(error)
            return
        listening.set_result(None)
        await self._stopping.wait()
        server.close()
        for connection in list(self._connections):
            connection.abort()
        await asyncio.wait_for(server.wait_closed(), START_TIMEOUT_S)

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        shell = os.environ.get("SHELL") or "/bin/sh"
        child = subprocess.Popen(  # noqa: ASYNC220 -- asyncio's own would kill the program with the connection
            [shell, "-c", process.command] if process.command else [shell],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=dict(os.environ, **self._environment),
            cwd=self._home,
        )
        assert child.stdin and child.stdout and child.stderr
        ended = _ended(child)
        feeding = asyncio.create_task(_feed(process.stdin, child.stdin))
        try:
            await asyncio.gather(
                _pass_on(child.stdout, process.stdout), _pass_on(child.stderr, process.stderr)
            )
            status = await ended
        except (OSError, asyncssh.Error):
            return  # the connection is gone; the program lives on
        finally:
            feeding.cancel()
        process.exit(status if status >= 0 else 128 - status)


async def _feed(source: asyncssh.SSHReader[bytes], pipe: IO[bytes]) -> None:
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(FlowControlMixin, pipe)
    sink = asyncio.StreamWriter(transport, protocol, None, asyncio.get_running_loop())
    try:
        while chunk := await source.read(CHUNK_BYTES):
            sink.write(chunk)
            await sink.drain()
    except (OSError, asyncssh.Error):
        pass  # the program reads no more, or the client is gone: both mean the end of its input
    finally:
        sink.close()


async def _pass_on(pipe: IO[bytes], sink: asyncssh.SSHWriter[bytes]) -> None:
    source = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(source), pipe
    )
    try:
        while chunk := await source.read(CHUNK_BYTES):
            sink.write(chunk)
            await sink.drain()
    finally:
        transport.close()


class _Login(asyncssh.SSHServer):
    def __init__(self, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._connections = connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.discard(self._connection)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True  # `ssh -L`, which sshd allows too


def _ended(child: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """The exit status to be, waited for in a thread of its own: some programs never end."""
    loop = asyncio.get_running_loop()
    status: asyncio.Future[int] = loop.create_future()

    def tell(found: int) -> None:
        if not status.done():
            status.set_result(found)

    def wait() -> None:
        found = child.wait()
        try:
            loop.call_soon_threadsafe(tell, found)
        except RuntimeError:
            pass  # the server has gone before its program

    threading.Thread(target=wait, name=f"wait-{child.pid}", daemon=True).start()
    return status
