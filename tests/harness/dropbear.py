"""A second real SSH server: dropbear, as small images carry it, with a home of its own for one user.

dropbear takes keys from the home folder that the user database names, so it gets a mount namespace in which
another folder lies there; nothing outside of that namespace changes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

START_TIMEOUT_S = 10.0
PROGRAM = shutil.which("dropbear", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))


class Dropbear:
    """A context manager; listens on `port` of 127.0.0.1 inside of it and takes the key at *public_key*."""

    def __init__(self, folder: Path, *, public_key: str) -> None:
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        keys = folder / "home" / ".ssh" / "authorized_keys"
        keys.parent.mkdir(mode=0o700, parents=True)
        keys.write_text(public_key)
        keys.chmod(0o600)
        (folder / "home").chmod(0o700)

    @staticmethod
    def why_not() -> str | None:
        """Why it cannot run on this machine; None if it can."""
        if PROGRAM is None or shutil.which("dropbearkey") is None:
            return "there is no dropbear on this machine"
        if subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=10, check=False).returncode:
            return "this machine does not let this user make mount namespaces"
        return None

    def __enter__(self) -> Dropbear:
        keys: list[str] = []
        for kind in ("rsa", "ed25519"):
            path = str(self._folder / f"{kind}_key")
            subprocess.run(
                ["dropbearkey", "-t", kind, "-f", path], check=True, capture_output=True, timeout=20
            )
            keys += ["-r", path]
        mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
        home = pwd.getpwuid(os.getuid()).pw_dir
        server = [
            str(PROGRAM),
            "-F",
            "-E",
            "-s",
            *keys,
            "-p",
            f"127.0.0.1:{self.port}",
            "-P",
            str(self._folder / "pid"),
        ]
        with (self._folder / "dropbear.log").open("wb") as log:
            self._child = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", mount, str(self._folder / "home"), home, *server],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.02)
        self.__exit__()
        raise TimeoutError((self._folder / "dropbear.log").read_text())

    def cut(self) -> None:
        """Kill every session; the listener stays."""
        assert self._child is not None
        children = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children").read_text().split()
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)

    def __exit__(self, *error: object) -> None:
        if self._child is not None:
            self.cut()
            self._child.kill()
            self._child.wait()
