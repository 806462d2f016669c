"""Run git so that it never asks, never hangs and never goes where it should not; and say why it failed.

A child gets no terminal, no password prompt and no repository but the one that is named.
"""

from __future__ import annotations

import re
from typing import Callable, Dict, List, Tuple

from ..contract.failures import Failure
from ..host import process
from ..run.context import Context
from . import orphans
from .git_login import ASKING, login_for
from .repo_sources import place_of

LOW_SPEED_BYTES_PER_S = 1000
LOW_SPEED_S = 30
_FOREIGN = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
)

_ALWAYS = (
    *("-c", "safe.directory=*"),
    *("-c", "advice.detachedHead=false"),
    *("-c", "core.fileMode=false"),  # `chmod -R` on a volume is no change of anybody's
    *("-c", "core.hooksPath=/dev/null"),  # nothing of a repository runs because it was checked out
    *("-c", "core.fsmonitor=false"),
    *("-c", "fetch.recurseSubmodules=false"),  # they are fetched on their own, by fewer protocols
    *("-c", "submodule.recurse=false"),
)

PROTOCOLS = "https:http:ssh:git:file"
"""What the address of a repo may be: never ext::, which runs a program."""
SUBMODULE_PROTOCOLS = "https:ssh"
"""What a repository may lead to by itself: no disk of this instance, nothing that anybody on the way could change."""

_CLASSES: Tuple[Tuple[str, str], ...] = (
    (r"transport '.*' not allowed", "unsafe_path"),
    (r"no space left on device|disk quota exceeded", "disk_full"),
    (r"read-only file system", "read_only"),
    (r"would be overwritten", "conflict"),
    (
        r"could not read (username|password)|authentication failed|permission denied \(publickey",
        "unauthorized",
    ),
    (r"repository .*not found|does not appear to be a git repository|error: 404|does not exist", "not_found"),
    (r"couldn't find remote ref|not our ref|unadvertised object|no such remote ref", "not_found"),
    (r"certificate|\bssl\b|\btls\b|gnutls", "tls"),
    (r"error: 429|too many requests", "rate_limited"),
    (r"error: 5\d\d|internal server error|bad gateway|service unavailable", "upstream_down"),
    (r"operation too slow", "stalled"),
    (
        r"could not resolve host|failed to connect|couldn't connect|connection (refused|reset|timed out)",
        "unreachable",
    ),
    (
        r"early eof|rpc failed|unexpected disconnect|hung up|network is unreachable|no route to host",
        "unreachable",
    ),
)
"""The first pattern that fits the output decides; the order is from certain to vague."""

_CASES = {
    "unauthorized": "private_repository",
    "not_found": "url_or_ref",
    "unsafe_path": "submodule_protocol",
    "conflict": "files_in_the_way",
}


class Git:
    """git in one folder. `run` raises what went wrong as a `Failure` that names the class."""

    def __init__(self, folder: str, context: Context, on_line: Callable[[str], None]) -> None:
        self._folder = folder
        self._context = context
        self._on_line = on_line

    def run(self, *arguments: str, timeout_s: float = 60.0, protocols: str = PROTOCOLS) -> List[str]:
        """Run ``git <arguments>`` in the folder.

        Args:
            protocols: By which it may speak to others.

        Returns:
            The lines that it wrote.

        Raises:
            Failure: it ended with another status than 0, or not in time.
        """
        status, lines = self._run(arguments, timeout_s, protocols)
        if status != 0:
            raise _failure(arguments, status, lines)
        return lines

    def succeeds(self, *arguments: str) -> bool:
        """True when ``git <arguments>`` ends with 0."""
        return self._run(arguments, 60.0)[0] == 0

    def line(self, *arguments: str) -> str:
        """The only line that ``git <arguments>`` writes; empty when it writes none or fails."""
        status, lines = self._run(arguments, 60.0)
        return lines[-1] if status == 0 and lines else ""

    def _run(
        self, arguments: Tuple[str, ...], timeout_s: float, protocols: str = PROTOCOLS
    ) -> Tuple[int, List[str]]:
        if self._context.is_offline and _asks_others(arguments):
            raise Failure(
                "offline", f"`git {arguments[0]}` would have to ask for it, and `--offline` asks nobody"
            )
        lines: List[str] = []

        def keep(line: str) -> None:
            lines.append(line)
            self._on_line(line)

        with login_for(arguments[0], self._context) as login:
            done = process.run(
                ["git", *_ALWAYS, *login.options, *arguments],
                timeout_s=self._context.bounded(timeout_s),
                directory=self._folder,
                environment=dict(_environment(protocols), **orphans.mark(self._context)),
                on_line=keep,
                cancelled=self._context.cancelled,
                keep_fds=login.descriptors,
            )
        return done.status, lines


def _asks_others(arguments: Tuple[str, ...]) -> bool:
    """Does this command of git go to another machine? What it asks stands behind ``--``."""
    asked = arguments[arguments.index("--") + 1 :][:1] if "--" in arguments else ()
    return arguments[0] == "submodule" or (arguments[0] in ASKING and any(map(place_of, asked)))


def _environment(protocols: str) -> Dict[str, str]:
    environment = process.child_environment(
        {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=10",
            "GIT_HTTP_LOW_SPEED_LIMIT": str(LOW_SPEED_BYTES_PER_S),
            "GIT_HTTP_LOW_SPEED_TIME": str(LOW_SPEED_S),
            "GIT_ALLOW_PROTOCOL": protocols,
            "LC_ALL": "C",
        }
    )
    return {name: value for name, value in environment.items() if name not in _FOREIGN}


def _failure(arguments: Tuple[str, ...], status: int, lines: List[str]) -> Failure:
    text = "\n".join(lines).lower()
    class_ = next((name for pattern, name in _CLASSES if re.search(pattern, text)), "command")
    told = (
        "fatal:",
        "error:",
        "remote:",
        "\t",
    )  # git names the files in the way on lines that begin with a tab
    telling = [line.strip() for line in lines if line.lower().startswith(told)]
    why = " | ".join((telling or lines)[:3]) or "it said nothing"
    return Failure(class_, f"`git {arguments[0]}` ended with {status}: {why}", case=_CASES.get(class_))
