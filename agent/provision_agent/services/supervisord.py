"""The supervisord of a rental image, when one really runs: it starts a service again after the instance restarts.

It is given this agent's own supervisor to run, so that restarts, log and status are the same everywhere; it only
brings that back when it was killed. Nothing of the image's own programs is touched or restarted.
"""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
from typing import List, NamedTuple, Optional, Sequence

from ..contract.failures import Failure
from ..host import process

ANSWER_S = 15.0
_USUAL = ("/etc/supervisord.conf", "/etc/supervisor/supervisord.conf")
"""Where supervisorctl itself looks, after the ``etc`` beside its own folder."""
_UNIT = """\
[program:{name}]
command={command}
autostart=true
autorestart=unexpected
exitcodes=0,1
startsecs=0
stopsignal=TERM
stopwaitsecs=30
stdout_logfile=NONE
stderr_logfile=NONE
"""
"""Its exit codes are last words of the agent's supervisor; only a signal that it did not expect brings it back."""


class Supervisord(NamedTuple):
    """One that runs, answers, and reads more programs from a folder that can be written."""

    control: str
    config: str
    pattern: str

    def start(self, name: str, argv: Sequence[str]) -> int:
        """Have *argv* run as the program *name*; its pid.

        Raises:
            Failure: `command` when it is not taken; then nothing of it is left.
        """
        unit = self._unit(name)
        text = _UNIT.format(name=name, command=shlex.join(argv))
        try:
            with open(unit, "w", encoding="utf-8") as file:
                file.write(text.replace("%", "%%"))
            self._ask("reread")
            self._ask("add", name)
            pid = self._ask("pid", name)[-1:]
            if pid and pid[0].isdigit() and int(pid[0]) > 0:
                return int(pid[0])
            raise Failure(
                "command", f"it says {' | '.join(pid) or 'nothing'} when asked for the pid of {name}"
            )
        except (Failure, OSError) as error:
            self.stop(name)
            reason = error.message if isinstance(error, Failure) else f"{unit}: {error.strerror}"
            raise Failure("command", f"supervisord does not take {name}: {reason}") from None

    def stop(self, name: str) -> None:
        """End the program *name* and forget it; does nothing when there is none."""
        unit = self._unit(name)
        if not os.path.exists(unit):
            return
        os.unlink(unit)
        for words in (("stop", name), ("remove", name)):
            try:
                self._ask(*words)
            except Failure:
                continue  # it did not run, or was not known: then there is nothing to end

    def _unit(self, name: str) -> str:
        return self.pattern.replace("*", name)

    def _ask(self, *words: str) -> List[str]:
        done = process.run([self.control, "-c", self.config, *words], timeout_s=ANSWER_S)
        if done.status != 0:
            raise Failure(
                "command",
                f"`supervisorctl {' '.join(words)}` ended with {done.status}: {done.said()}",
            )
        return done.tail


def find() -> Optional[Supervisord]:
    """The supervisord of this instance; None when there is none that can be used."""
    control = shutil.which("supervisorctl")
    if control is None:
        return None
    config = config_of(control)
    pattern = None if config is None else _writable_pattern(config)
    if config is None or pattern is None:
        return None
    found = Supervisord(control, config, pattern)
    try:
        answer = found._ask("pid")
    except Failure:
        return None
    return found if answer and answer[-1].isdigit() else None


def config_of(control: str) -> Optional[str]:
    """The configuration that the program *control* reads; None when there is none."""
    own = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(control))), "etc", "supervisord.conf")
    return next(filter(os.path.isfile, (own, *_USUAL)), None)


def _writable_pattern(config: str) -> Optional[str]:
    """The first pattern of included files whose folder can be written."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False)
    try:
        parser.read(config)
        patterns = parser.get("include", "files").split()
    except (OSError, ValueError, configparser.Error):
        return None
    here = os.path.dirname(config)
    for pattern in patterns:
        path = os.path.join(here, pattern.replace("%(here)s", here))
        folder, name = os.path.split(path)
        if name.count("*") == 1 and os.path.isdir(folder) and os.access(folder, os.W_OK):
            return path
    return None
