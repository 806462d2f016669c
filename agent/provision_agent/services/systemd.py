"""The systemd of an instance, when it is really booted: it starts a service again after the machine restarts.

Like `supervisord.py` it is given this agent's own supervisor to run, so that restarts, log and status are the same
everywhere. The unit names files only; nothing of the service's environment is in it. Without root it is the user's
own systemd, and only where that outlives the login.
"""

from __future__ import annotations

import getpass
import os
from typing import List, NamedTuple, Optional, Sequence, Tuple

from ..contract.failures import Failure
from ..host import process
from ..host.init_system import login_environment, systemd_answers

STOP_S = 45.0
"""More than the unit's own `TimeoutStopSec`."""
_FOLDER = "/etc/systemd/system"
_LINGERS = "/var/lib/systemd/linger"
_UNIT = """\
[Unit]
Description={name}
After=network.target
[Service]
Type=exec
ExecStart={command}
Restart=on-abnormal
RestartSec=1
KillMode=mixed
TimeoutStopSec=30
OOMPolicy=continue
[Install]
WantedBy={target}
"""
"""Brought back only when a signal ended it: its exit codes are last words. A program that is out of memory is its affair."""


class Systemd(NamedTuple):
    """One that runs and answers, and whose folder of units can be written."""

    options: Tuple[str, ...]
    folder: str
    target: str

    def start(self, name: str, argv: Sequence[str]) -> int:
        """Have *argv* run as the unit *name*, now and after every boot; its pid.

        Raises:
            Failure: `command` when it is not taken; then nothing of it is left.
        """
        unit = self._unit(name)
        command = " ".join(map(_quoted, argv))
        try:
            os.makedirs(self.folder, exist_ok=True)
            with open(unit, "w", encoding="utf-8") as file:
                file.write(_UNIT.format(name=name, command=command, target=self.target))
            self._ask("daemon-reload")
            self._ask("enable", "--now", name)
            pid = self._ask("show", "--property=MainPID", "--value", name)[-1:]
            if pid and pid[0].isdigit() and int(pid[0]) > 0:
                return int(pid[0])
            raise Failure("command", f"it has no process for {name}")
        except (Failure, OSError) as error:
            self.stop(name)
            reason = error.message if isinstance(error, Failure) else f"{unit}: {error.strerror}"
            raise Failure("command", f"systemd does not take {name}: {reason}") from None

    def stop(self, name: str) -> None:
        """End the unit *name* and forget it; does nothing when there is none."""
        unit = self._unit(name)
        if not os.path.exists(unit):
            return
        self._try("disable", "--now", name)
        os.unlink(unit)
        self._try("daemon-reload")
        self._try("reset-failed", name)

    def _unit(self, name: str) -> str:
        return os.path.join(self.folder, f"{name}.service")

    def _try(self, *words: str) -> None:
        try:
            self._ask(*words)
        except Failure:
            return  # it did not run, was not known, or had not failed: then there is nothing to do

    def _ask(self, *words: str) -> List[str]:
        argv = ["systemctl", *self.options, "--no-ask-password", *words]
        done = process.run(argv, timeout_s=STOP_S, environment=login_environment())
        if done.status != 0:
            said = done.said()
            raise Failure("command", f"`systemctl {' '.join(words)}` ended with {done.status}: {said}")
        return done.tail


def find() -> Optional[Systemd]:
    """The systemd of this instance; None when there is none that can be used."""
    if os.geteuid() == 0:
        return (
            Systemd((), _FOLDER, "multi-user.target")
            if systemd_answers() and os.access(_FOLDER, os.W_OK)
            else None
        )
    if not systemd_answers("--user") or not os.path.exists(os.path.join(_LINGERS, getpass.getuser())):
        return None
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Systemd(("--user",), os.path.join(config, "systemd", "user"), "default.target")


def _quoted(word: str) -> str:
    """*word* so that systemd takes it as it is: neither its specifiers nor its variables in it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
