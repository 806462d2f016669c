"""Run the machine's own OpenSSH server for one user on one loopback port, with nothing of it outside one folder.

`stop` ends the listener and every session, as pulling the network cable would; what the sessions had
detached lives on, as it would on an instance.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from ..errors import ProvisionError

START_TIMEOUT_S = 10.0
PRIVILEGE_SEPARATION_FOLDER = Path("/run/sshd")


class SshdUnusableError(ProvisionError):
    """The machine's sshd is missing, or does not run here as this user."""


def find_sshd() -> str | None:
    """The path of the machine's sshd, also where only root has it on the PATH."""
    return shutil.which(
        "sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    )


class Sshd:
    """One listener that can be stopped and started again on its port."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        host_key: Path,
        authorized_keys: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._config = directory / "sshd_config"
        self._log = directory / "sshd.log"
        self._port = port
        self._listener: subprocess.Popen[bytes] | None = None
        self._config.write_text(_configuration(port, host_key, authorized_keys, environment))

    def start(self) -> None:
        """Listen on the port when this returns.

        Raises:
            SshdUnusableError: no sshd, or it ended or said nothing within `START_TIMEOUT_S`.
        """
        program = find_sshd()
        if program is None:
            raise SshdUnusableError("this machine has no sshd")
        if os.getuid() == 0 and not PRIVILEGE_SEPARATION_FOLDER.is_dir():
            _make_privilege_separation_folder()
        with self._log.open("ab") as log:
            self._listener = subprocess.Popen(
                [program, "-D", "-e", "-f", str(self._config)],  # sshd re-executes itself: an absolute path
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal ends the demo, which then ends this
            )
        try:
            self._await_listening()
        except SshdUnusableError:
            self.stop()
            raise

    def stop(self) -> None:
        """End the listener and every session; safe to repeat."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if listener.poll() is None:
            os.kill(listener.pid, signal.SIGSTOP)  # from here on it accepts nobody, so the list is complete
            for pid in sessions_of(listener.pid):
                _kill(pid)
            listener.kill()
        listener.wait()

    @property
    def pids(self) -> list[int]:
        """The listener first, then its sessions; empty when stopped."""
        if self._listener is None or self._listener.poll() is not None:
            return []
        return [self._listener.pid, *sessions_of(self._listener.pid)]

    def _await_listening(self) -> None:
        assert self._listener is not None
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            if self._listener.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
                return
            except OSError:
                time.sleep(0.02)
        said = self._log.read_text(errors="replace").strip().splitlines()
        raise SshdUnusableError(f"sshd does not start: {said[-1] if said else 'it says nothing'}")


def sessions_of(listener: int) -> list[int]:
    """The sshd processes below *listener*; not the commands that they run."""
    children: dict[int, list[int]] = {}
    for pid, parent, name in _processes():
        if name.startswith("sshd"):
            children.setdefault(parent, []).append(pid)
    found = list(children.get(listener, []))
    for pid in found:  # grows while it is walked: children of children
        found.extend(children.get(pid, []))
    return found


def _processes() -> list[tuple[int, int, str]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            head, _, tail = (folder / "stat").read_text(errors="replace").rpartition(")")
        except OSError:
            continue  # ended while we looked
        found.append((int(folder.name), int(tail.split()[1]), head.partition("(")[2]))
    return found


def _configuration(port: int, host_key: Path, authorized_keys: Path, environment: Mapping[str, str]) -> str:
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    return f"""\
ListenAddress 127.0.0.1
Port {port}
HostKey "{host_key}"
AuthorizedKeysFile "{authorized_keys}"
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
UseDNS no
MaxStartups 100
MaxSessions 100
MaxAuthTries 100
AllowTcpForwarding yes
Subsystem sftp internal-sftp
SetEnv {variables}
"""


def _make_privilege_separation_folder() -> None:
    try:
        PRIVILEGE_SEPARATION_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise SshdUnusableError(f"sshd needs `{PRIVILEGE_SEPARATION_FOLDER}`: {error.strerror}") from None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
