"""pip or uv, run so that it never hangs silently, and its failures as classes.

Every call is bounded, tells its timeouts to nested builds through the environment too, keeps its downloads below
the workspace, and ends in success or in a `Failure` with the last lines and the exact command to repeat by hand.
The user's own configuration of indexes is respected.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from .. import backoff, process
from ..context import Context
from ..failures import Failure
from ..plan import Python
from . import orphans, probe
from .progress import Progress
from .venv import Venv

ATTEMPTS = 3
WAIT_BASE_S = 5.0
WAIT_CAP_S = 30.0
RETRY_WITHIN_S = 900.0
"""pip retries by itself, for minutes per connection: after this long another attempt would only repeat that."""
INSTALL_S = 3600.0
QUICK_S = 120.0
OLDEST_PIP = 21
"""Older ones do not know the platform tags of today's wheels (manylinux_2_28)."""

_NETWORK = re.compile(
    r"newconnectionerror|connection(reset|abort)?error|connection (refused|reset|broken|timed out)|read timed out|"
    r"connecttimeout|name resolution|name or service not known|max retries exceeded|remotedisconnected|incompleteread|"
    r"incomplete-download|error sending request|network is unreachable|dns error|operation timed out"
)
_CLASSES: Tuple[Tuple[str, str], ...] = (
    (r"no space left on device|disk quota exceeded", "disk_full"),
    (r"read-only file system", "read_only"),
    (r"do not match the hashes|hash mismatch", "checksum"),
    (r"\b40[13]\b.*(client error|forbidden|unauthorized|while getting)|http error 40[13]", "unauthorized"),
    (r"resolutionimpossible|conflicting dependencies", "conflict"),
    (r"no matching distribution|could not find a version|not found in the package registry", "not_found"),
    (
        r"there is no version of|no wheels with a matching|http error 404|404 (client error|not found)",
        "not_found",
    ),
    (r"no solution found", "conflict"),
    (r"\b5\d\d\b.*server error|http error 5\d\d|http status server error", "upstream_down"),
)
"""Tried in order on the lines that begin an error, then on all of the output."""

_UV_NAMES = {
    "PIP_INDEX_URL": "UV_INDEX_URL",
    "PIP_EXTRA_INDEX_URL": "UV_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
}
"""uv does not read pip's configuration; what its users set there must hold all the same."""

_ASTRAY = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
"""They would bring another interpreter's packages into this environment, or install beside it."""


class Installer:
    """Installs into one environment. Not for two threads at once."""

    def __init__(self, python: Python, venv: Venv, context: Context) -> None:
        self.venv = venv
        self._python = python
        self._context = context
        self._uv = _uv(python)
        self._cache = os.path.join(context.workspace, ".provision", "cache")
        self._versions: Optional[Dict[str, str]] = None
        self.temporary = os.path.join(self._cache, "tmp")
        """Where downloads and builds land meanwhile: its size tells that something moves."""
        os.makedirs(self.temporary, mode=0o700, exist_ok=True)

    def installed(self) -> Dict[str, str]:
        """Version of every installed distribution by its normalised name."""
        if self._versions is None:
            self._versions = dict(
                probe.ask(
                    self.venv.python,
                    "installed",
                    timeout_s=self._bound_s(QUICK_S),
                    cancelled=self._context.cancelled,
                )
            )
        return self._versions

    def install(
        self,
        arguments: Sequence[str],
        progress: Progress,
        *,
        item: str,
        level: str,
        constraints: Mapping[str, str],
    ) -> None:
        """Install *arguments*, with more attempts while that may help.

        Args:
            arguments: Requirements and options that pip and uv share.
            progress: Told what happens meanwhile.
            item: What this is part of, for events.
            level: Its level.
            constraints: Versions by name that nothing may change.

        Raises:
            Failure: `network`, `not_found`, `conflict`, `disk_full`, `unauthorized`, …; else `command`.
        """
        argv = self._argv("install", [*self._constraint_options(constraints), *arguments])
        give_up_at = time.monotonic() + RETRY_WITHIN_S
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._run(argv, progress, INSTALL_S)
                return
            except Failure as failure:
                may_help = failure.retriable or failure.class_ == "checksum"
                if attempt == ATTEMPTS or not may_help or time.monotonic() > give_up_at:
                    raise
                self._wait(attempt, failure, item, level)
                if failure.class_ == "checksum":
                    argv = [
                        *argv,
                        "--no-cache" if self._uv else "--no-cache-dir",
                    ]  # the cached copy may be the bad one

    def prepare(self, progress: Progress) -> None:
        """Throw away what an interrupted install left in `temporary`, and bring a pip up to date that is too old.

        A failed update is a warning: the old one may do.
        """
        shutil.rmtree(self.temporary, ignore_errors=True)
        os.makedirs(self.temporary, mode=0o700, exist_ok=True)
        version = self.installed().get("pip", "")
        if self._uv or not version or int(version.split(".")[0]) >= OLDEST_PIP:
            return
        progress.say(f"pip {version} cannot install today's wheels: updating it")
        try:
            self._run(self._argv("install", ["--upgrade", f"pip>={OLDEST_PIP}"]), progress, QUICK_S)
        except Failure as failure:
            if self._context.cancelled.is_set():
                raise
            self._context.report(
                "warning", message=f"pip {version} is old and cannot be updated: {failure.message}"
            )

    def uninstall(self, names: Sequence[str], progress: Progress) -> None:
        """Remove the distributions *names*, which are installed.

        Raises:
            Failure: `command`, with the last lines.
        """
        options = [] if self._uv else ["--yes"]
        self._run(self._argv("uninstall", [*options, *names]), progress, QUICK_S)

    def forget_versions(self) -> None:
        """Something else changed the environment: look again."""
        self._versions = None

    def _argv(self, action: str, arguments: Sequence[str]) -> List[str]:
        if self._uv:
            return [self._uv, "pip", action, "--python", self.venv.python, *arguments]
        options = ["--disable-pip-version-check", "--no-input"]
        if action == "install":
            limits = ["--timeout", f"{self._python.timeout_s:.0f}", "--retries", str(self._python.retries)]
            options += ["--progress-bar", "off", *limits]
        return [self.venv.python, "-m", "pip", action, *options, *arguments]

    def _constraint_options(self, constraints: Mapping[str, str]) -> List[str]:
        if not constraints:
            return []
        path = os.path.join(self._context.run_directory, "constraints.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{name}=={version}\n" for name, version in sorted(constraints.items()))
        return ["--constraint", path]

    def _run(self, argv: List[str], progress: Progress, timeout_s: float) -> None:
        output: List[str] = []

        def keep(line: str) -> None:
            output.append(line)
            progress.line(line)

        self.forget_versions()
        done = process.run(
            argv,
            timeout_s=self._bound_s(timeout_s),
            directory=self._context.workspace,
            environment=self._environment(),
            on_line=keep,
            cancelled=self._context.cancelled,
        )
        if done.status != 0:
            raise _failure(argv, done.status, output, self._python)

    def _wait(self, attempt: int, failure: Failure, item: str, level: str) -> None:
        wait_s = backoff.full_jitter_s(attempt, base_s=WAIT_BASE_S, cap_s=WAIT_CAP_S)
        fields = {"attempt": attempt + 1, "wait_s": round(wait_s, 3), "class": failure.class_}
        self._context.report("package_retried", item=item, level=level, message=failure.message, **fields)
        self._context.cancelled.wait(min(wait_s, max(0.0, self._context.remaining_s())))

    def _environment(self) -> Dict[str, str]:
        seconds = f"{self._python.timeout_s:.0f}"
        path = os.path.dirname(self.venv.python) + os.pathsep + os.environ.get("PATH", os.defpath)
        environment = process.child_environment(
            {
                "PIP_DEFAULT_TIMEOUT": seconds,  # nested builds read the environment only, not our flags
                "PIP_RETRIES": str(self._python.retries),
                "UV_HTTP_TIMEOUT": seconds,
                "UV_HTTP_RETRIES": str(self._python.retries),
                "TMPDIR": self.temporary,
                **orphans.mark(self._context),
                "VIRTUAL_ENV": self.venv.path,
                "PATH": path,
                "PYTHONUNBUFFERED": "1",
                "PYTHONNOUSERSITE": "1",
            }
        )
        environment.setdefault("PIP_CACHE_DIR", os.path.join(self._cache, "pip"))
        environment.setdefault("UV_CACHE_DIR", os.path.join(self._cache, "uv"))
        for pip_name, uv_name in _UV_NAMES.items():
            if pip_name in environment:
                environment.setdefault(uv_name, environment[pip_name])
        for name in _ASTRAY:
            environment.pop(name, None)
        return environment

    def _bound_s(self, own_s: float) -> float:
        return max(0.1, min(own_s, self._context.remaining_s()))


def _uv(python: Python) -> str:
    """The path of uv when it is to be used, else empty; it is never downloaded."""
    if python.installer == "pip":
        return ""
    found = shutil.which("uv")
    if found is None and python.installer == "uv":
        raise Failure(
            "command",
            "`python.installer` is uv, and there is no uv here",
            hint="install uv, or set `installer: auto`",
        )
    return found or ""


def _failure(argv: List[str], status: int, output: List[str], python: Python) -> Failure:
    errors = [line for line in output if re.match(r"\s*(error|fatal|×|╰─▶|cause)", line, re.IGNORECASE)]
    class_ = _class_of(errors) or _class_of(output) or "command"
    has_network_trouble = any(_NETWORK.search(line.lower()) for line in output)
    if has_network_trouble and class_ in ("not_found", "command", "conflict"):
        class_ = "network"  # an index that could not be read looks like one without the package
    why = " | ".join((errors or output)[-3:]) or "it said nothing"
    command = " ".join(map(shlex.quote, argv))
    advice = {
        "network": f"raise `python.timeout` (now {python.timeout_s:.0f}s), or check the network; ",
        "not_found": "correct the version in the profile, or add its index with PIP_EXTRA_INDEX_URL; ",
        "conflict": "relax the version that conflicts, or take it out of `protect`; ",
    }.get(class_, "")
    hint = f"{advice}repeat it on the instance: `{command}`"
    return Failure(
        class_, f"the installer ended with {status}: {why}", hint=hint, tail=output[-process.TAIL_LINES :]
    )


def _class_of(lines: List[str]) -> Optional[str]:
    text = "\n".join(lines).lower()
    return next((name for pattern, name in _CLASSES if re.search(pattern, text)), None)
