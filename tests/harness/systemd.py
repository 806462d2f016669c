"""A real systemd, booted as the first process of namespaces of its own, as a rented machine has one.

It has its own folders of units, `/run`, processes and control groups, and shares the rest with this machine. It needs
root and the right to make namespaces; `boot` says what is missing where it cannot be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PROGRAM = "/lib/systemd/systemd"
UNITS = "/lib/systemd/system"
UNITS_OF_USERS = "/usr/lib/systemd/user"
TARGETS = ("basic", "shutdown", "umount", "sockets", "timers", "paths", "slices", "multi-user", "network")
BOOT_S = 20.0
_BOOT = """
set -e
mount -t tmpfs tmpfs /run
mkdir /run/groups /run/user
mount -t cgroup2 none /run/groups
mkdir -p /run/groups/{name}
echo $$ > /run/groups/{name}/cgroup.procs
exec unshare --cgroup sh -e -c '
umount /run/groups
mount -t cgroup2 none /sys/fs/cgroup
mount --bind {folder}/own /etc/systemd/system
mount --bind {folder}/units {units}
mount --bind {folder}/units {units_of_users}
mount -t tmpfs tmpfs /lib/systemd/system-generators
mount -t tmpfs tmpfs /var/lib/systemd
mkdir /var/lib/systemd/linger
exec env -i container=test PATH="$PATH" {program} --system --unit=default.target --machine-id={machine}
'
"""


class Refused(Exception):
    """This machine cannot boot one; the message says why."""


class Systemd:
    """One that has booted. `own` is what it sees as ``/etc/systemd/system``; it outlives a `restart`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="systemd-"))
        self._name = self._folder.name
        self.own = self._folder / "own"
        self.own.mkdir()
        units = self._folder / "units"
        units.mkdir()
        for target in TARGETS:
            (units / f"{target}.target").write_text("[Unit]\nDescription=a stage of the boot\n")
        (units / "sysinit.target").write_text("[Unit]\nDescription=nothing of this machine's own\n")
        (units / "default.target").symlink_to("multi-user.target")
        try:
            self._boot()
        except BaseException:
            self.close()
            raise

    def restart(self) -> None:
        """As a machine whose power fails: nothing of before lives."""
        self._end()
        self._boot()

    def close(self) -> None:
        self._end()
        shutil.rmtree(self._folder)

    def run(self, argv: Sequence[str], **options: object) -> str:
        """What *argv* says when it is run on that machine."""
        done = subprocess.run(self.inside(argv), stdout=subprocess.PIPE, timeout=25, check=False, **options)  # type: ignore[call-overload]
        return str(done.stdout.decode())

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command that runs *argv* on that machine."""
        return ["nsenter", "--target", str(self._pid), "--all", *argv]

    def _boot(self) -> None:
        script = _BOOT.format(
            name=self._name,
            folder=self._folder,
            units=UNITS,
            units_of_users=UNITS_OF_USERS,
            program=PROGRAM,
            machine="0" * 31 + "1",
        )
        spaces = ["--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        with open(self._folder / "boot.log", "wb") as log:
            self._parent = subprocess.Popen(
                ["unshare", *spaces, "--propagation", "private", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._has_booted, self._trouble, within_s=BOOT_S)

    def _has_booted(self) -> bool:
        if self._parent.poll() is not None:
            raise Refused(self._trouble())
        children = Path(f"/proc/{self._parent.pid}/task/{self._parent.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self._pid = int(children[0])
        return self.run(["systemctl", "is-system-running"], stderr=subprocess.DEVNULL).strip() == "running"

    def _trouble(self) -> str:
        return (self._folder / "boot.log").read_text(errors="replace")[-500:]

    def _end(self) -> None:
        self._parent.kill()
        self._parent.wait(timeout=10)
        with tempfile.TemporaryDirectory() as groups:
            mounted = subprocess.run(["mount", "-t", "cgroup2", "none", groups], timeout=10, check=False)
            if mounted.returncode != 0:
                return  # then it has never had any
            mine = Path(groups, self._name)
            until(lambda: not _processes(mine), lambda: "processes that do not end", within_s=60.0)
            for folder, _, _ in os.walk(mine, topdown=False):
                os.rmdir(folder)
            subprocess.run(["umount", groups], check=True, timeout=10)


def boot() -> Systemd:
    """Boot one.

    Raises:
        Refused: it cannot be had here.
    """
    if os.geteuid() != 0:
        raise Refused("only root can make namespaces")
    missing = [
        name for name in (PROGRAM, "unshare", "nsenter", "systemctl", "setpriv") if shutil.which(name) is None
    ]
    if missing:
        raise Refused(f"there is no {', '.join(missing)}")
    return Systemd()


def until(holds: Callable[[], object], trouble: Callable[[], str], *, within_s: float) -> None:
    """Wait until *holds*; what *trouble* says is the error when it never does."""
    end = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(trouble())
        time.sleep(0.05)


def _processes(group: Path) -> list[str]:
    found: list[str] = []
    for folder, _, names in os.walk(group):
        if "cgroup.procs" in names:
            found += Path(folder, "cgroup.procs").read_text().split()
    return found
