"""A rented instance, played by this machine: a real SSH server with a home and a workspace in one folder.

Nothing outside that folder is read or written, and `switch_off` leaves no process behind, whatever
was started on the instance: each carries the instance's mark in its environment.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import asyncssh

from ..storage import private_folder, write_atomically
from .ssh_server import SshServer
from .sshd import Sshd, SshdUnusableError

MARK = "PROVISION_EMBEDDED_INSTANCE"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOGIN_TIMEOUT_S = 10.0
SWITCH_OFF_TIMEOUT_S = 10.0


class EmbeddedInstance:
    """A context manager, plain or ``async``; the instance is up inside of it.

    Args:
        directory: Where all of it lives; created if absent.
        server: ``sshd`` or ``asyncssh``; None takes the machine's sshd if it lets this user in.
        environment: More variables for every login, over the usual ones.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        directory: Path,
        *,
        server: Literal["sshd", "asyncssh"] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._wanted = server
        self._directory = directory.resolve()
        self.user = _user_name()
        self.port = free_port()
        self.key_path = self._directory / "client_key"
        self.host_key_path = self._directory / "host_key"
        self.home = self._directory / "home"
        self.workspace = self._directory / "workspace"
        self.kind = ""
        """What plays the SSH server: ``OpenSSH sshd`` or ``asyncssh``; known once it has started."""
        self.why_not_sshd = ""
        """Why the machine's own sshd was not taken; empty if it was, or was not wanted."""
        self._environment = {
            "HOME": str(self.home),
            "PATH": f"{SYSTEM_PATH}:{os.path.dirname(sys.executable)}",  # python3, if the system has none
            MARK: str(self._directory),
            **(environment or {}),
        }
        self._server: Sshd | SshServer | None = None

    def start(self) -> None:
        """Accept logins when this returns; after `stop`, on the same port with the same keys."""
        if self._server is None:
            self._server = self._install()
        else:
            self._server.start()

    def stop(self) -> None:
        """Cut every connection and accept none; what was started on the instance goes on."""
        if self._server is not None:
            self._server.stop()

    def restart(self) -> None:
        """Cut every connection and accept new ones."""
        self.stop()
        self.start()

    def switch_off(self) -> None:
        """`stop`, and end every process that was started on the instance."""
        self.stop()
        end = time.monotonic() + SWITCH_OFF_TIMEOUT_S
        while pids := self.processes:
            for pid in pids:  # again and again: a process may start another while we look
                _kill(pid)
            if time.monotonic() > end:
                raise TimeoutError(f"processes {pids} of the embedded instance do not end")
            time.sleep(0.02)

    @property
    def pids(self) -> list[int]:
        """The sshd processes: the listener first, then its sessions; empty for asyncssh."""
        return [] if self._server is None else self._server.pids

    @property
    def processes(self) -> list[int]:
        """Every living process that was started on the instance, detached ones too."""
        mark = f"{MARK}={self._directory}".encode()
        return [pid for pid, environment in _environments() if mark in environment.split(b"\0")]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.switch_off()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.switch_off()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.switch_off)

    def _install(self) -> Sshd | SshServer:
        for folder in (self._directory, self.home, self.workspace):
            private_folder(folder)
        authorized_keys = self._directory / "authorized_keys"
        authorized_keys.write_bytes(_make_key(self.key_path).export_public_key())
        _make_key(self.host_key_path)
        if self._wanted != "asyncssh":
            sshd = Sshd(
                self._directory,
                port=self.port,
                host_key=self.host_key_path,
                authorized_keys=authorized_keys,
                environment=self._environment,
            )
            try:
                sshd.start()
                self._log_in(sshd)
                self.kind = "OpenSSH sshd"
                return sshd
            except SshdUnusableError as error:
                if self._wanted == "sshd":
                    raise
                self.why_not_sshd = str(error)
        server = SshServer(
            port=self.port,
            host_key=self.host_key_path,
            authorized_keys=authorized_keys,
            environment=self._environment,
            home=self.home,
        )
        server.start()
        self.kind = "asyncssh"
        return server

    def _log_in(self, sshd: Sshd) -> None:
        """An account may be locked or have no shell: only a login proves that sshd can be used."""

        async def log_in() -> None:
            async with asyncssh.connect(
                self.host,
                self.port,
                username=self.user,
                client_keys=[str(self.key_path)],
                known_hosts=None,
                config=None,
                agent_path=None,
                login_timeout=LOGIN_TIMEOUT_S,
            ) as connection:
                await connection.run("exit 0", check=True, timeout=LOGIN_TIMEOUT_S)

        try:
            with ThreadPoolExecutor(1) as pool:  # the caller's thread may already run an event loop
                pool.submit(asyncio.run, log_in()).result(3 * LOGIN_TIMEOUT_S)
        except (OSError, asyncssh.Error, asyncssh.ProcessError) as error:
            sshd.stop()
            raise SshdUnusableError(f"sshd does not let `{self.user}` in: {error}") from None


def _make_key(path: Path) -> asyncssh.SSHKey:
    key = asyncssh.generate_private_key("ssh-ed25519", "provision embedded instance")
    write_atomically(path, key.export_private_key(), durable=False)
    return key


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "demo"  # a container with a bare uid: sshd refuses it, asyncssh's server does not ask


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _environments() -> list[tuple[int, bytes]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((int(folder.name), (folder / "environ").read_bytes()))
        except OSError:
            continue  # another user's, or ended while we looked
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
