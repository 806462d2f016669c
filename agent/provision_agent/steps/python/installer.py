"""pip or uv, run so that it never hangs silently, and its failures as classes.

Every call is bounded, tells its timeouts to nested builds through the environment too, keeps its downloads below
the workspace, and ends in success or in a `Failure` with the last lines and the exact command to repeat by hand.
The user's own configuration of indexes is respected.
"""

from __future__ import annotations

import os
import shutil
from typing import Dict, List, Mapping, Optional, Sequence, Set

from ...contract import retry
from ...contract.failures import Failure
from ...contract.plan import Python
from ...host import environments, process
from ...host.probe import normalised
from ...run.context import Context
from ...run.outages import PatientAttempts
from .. import orphans
from ..progress import Progress
from . import from_lock, indexes, pip_errors, requirements, resolver, uv_cache
from .inventory import QUICK_S, Inventory
from .locked_install import LockedInstalls, Run, Surroundings
from .venv import Venv

SCHEDULE = retry.Schedule(attempts=3, base_s=5.0, cap_s=30.0, within_s=900.0)
"""pip retries by itself, for minutes per connection: after this long another attempt would only repeat that."""
PLACE = "package indexes"
"""They are waited for once in a run, not for each requirements file anew."""
INSTALL_S = 3600.0
UV_S = 60.0
OLDEST_PIP = 21
"""Older ones do not know the platform tags of today's wheels (manylinux_2_28)."""

_NOWHERE = "http://127.0.0.1:9"
_NOBODY = {
    "UV_OFFLINE": "1",
    "PIP_NO_INDEX": "1",
    "PIP_RETRIES": "0",
    **dict.fromkeys(
        ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), _NOWHERE
    ),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
}
"""What keeps pip, uv, git and builds that they start from asking anybody."""
_ROOM_OF_UV = ("_RJEM_MALLOC_CONF", "lg_tcache_max:20")
"""Else uv gives the buffer of each file that it unpacks back to the kernel: a third of its system time."""
_ASTRAY = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
"""They would bring another interpreter's packages into this environment, or install beside it."""


class Installer(Inventory):
    """Installs into one environment. Not for two threads at once.

    Args:
        by_lock: Resolves first, and has the wheels fetched by the engine; None: the installer does all by itself.
    """

    def __init__(
        self, python: Python, venv: Venv, context: Context, *, by_lock: Optional[LockedInstalls] = None
    ) -> None:
        super().__init__(venv, context)
        self._by_lock = by_lock
        self._python = python
        self._cache = os.path.join(context.workspace, ".provision", "cache")
        self._tools = os.path.join(context.workspace, ".provision", "tools")
        self._unpacked = uv_cache.place(context.workspace, venv.path, os.environ)
        self._uv = self._find_uv()
        self.locked = from_lock.pins(python)
        """By name what a lock asks for: no install may bring anything else of it."""
        self.unwanted = frozenset(normalised(name) for name in python.remove)
        """What the plan takes out before the first layer, whoever brought it."""
        self.kept_out: Set[str] = set()
        """Distributions, by normalised name, that no install may bring."""
        self.standing: Sequence[str] = ()
        """Plain requirements that hold already; what else is installed must go with them."""
        self.stays: Sequence[str] = ()
        """Names of what keeps the version that it has."""
        self._temporary = os.path.join(self._cache, "tmp")
        os.makedirs(self._temporary, mode=0o700, exist_ok=True)

    @property
    def has_uv(self) -> bool:
        """uv installs; else pip does."""
        return bool(self._uv)

    @property
    def is_locked(self) -> bool:
        """Nothing but a lock's wheels is installed."""
        return self._python.locked is not None

    @property
    def landing(self) -> str:
        """Where downloads and builds land meanwhile: its size tells that something moves."""
        return self._unpacked if self._uv else self._temporary

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
        if (locked := self._python.locked) is not None:
            about = (self, self._by_lock, self._context, progress)
            from_lock.install(locked, arguments, *about, item=item, level=level)
            return
        constraints = {**self.locked, **constraints}
        if not self._context.is_offline and self._install_locked(
            arguments, progress, constraints, item=item, level=level
        ):
            return
        options = [*self._constraint_options(constraints), *arguments]
        if self._context.is_offline:
            self._install_offline(options, progress, item=item)
        else:
            self.install_as_told(options, progress, item=item, level=level)

    def install_as_told(self, options: Sequence[str], progress: Progress, *, item: str, level: str) -> None:
        """As `install`, without any constraint and any lock."""
        try:
            self._install(options, progress, item=item, level=level)
        except Failure as failure:
            if not self._may_pip_try(failure):
                raise
            self._context.report("warning", message=f"{item}: uv cannot do it ({failure.message}): pip tries")
            uv, self._uv = self._uv, ""
            try:
                self._install(options, progress, item=item, level=level)
            except Failure:
                self._uv = uv
                raise

    def _install_offline(self, options: Sequence[str], progress: Progress, *, item: str) -> None:
        """Install what is in the installer's cache, or there already. Raises Failure `offline`."""
        try:
            self._run(self._argv("install", options), progress, INSTALL_S)
        except Failure as failure:
            if failure.meaning.is_of_instance or self._context.is_over():
                raise
            message = f"{item}: packages are missing, and `--offline` asks no index: {failure.message}"
            raise Failure("offline", message, tail=failure.facts.get("tail", [])) from None

    def _install_locked(
        self,
        arguments: Sequence[str],
        progress: Progress,
        constraints: Mapping[str, str],
        *,
        item: str,
        level: str,
    ) -> bool:
        """Install *arguments* from a lock; False when something is left to the installer."""
        by_lock = self._by_lock if self._uv else None
        order = resolver.order_of(arguments) or resolver.Order(())
        if by_lock is None or not order.lines:
            return False
        try:
            return by_lock.install(
                order,
                self.surroundings(constraints),
                progress,
                self.runner(progress),
                level=level,
            )
        except Failure as failure:
            is_against_standing = bool(self.standing) and failure.class_ == "conflict"
            if self._context.is_over() or failure.meaning.is_of_instance or is_against_standing:
                raise
            if failure.class_ not in ("conflict", "not_found"):  # else the installer says it in a moment
                progress.say(f"{item}: as ever, without a lock: {failure.message}")
            return False

    def runner(self, progress: Progress) -> Run:
        """Runs commands of uv, and tells *progress*."""
        return lambda argv, environment: self._run(argv, progress, INSTALL_S, environment)

    def surroundings(self, constraints: Mapping[str, str], *, is_new: bool = False) -> Surroundings:
        """What an install under *constraints* has to do with; *is_new*: in an environment that holds nothing yet."""
        return Surroundings(
            uv=self._uv,
            python=self.venv.python,
            version=self.python_version(),
            settings=self._settings(),
            logins=self.logins(),
            environment={**self._environment(), "UV_CACHE_DIR": self._unpacked},
            installed={} if is_new else dict(self.installed()),
            constraints=self._constraint_lines(constraints),
            standing=self.standing,
            site_packages="" if is_new else next(iter(self.site_packages()), ""),
        )

    def trial(
        self, lines: Sequence[str], progress: Progress, *, constraints: Mapping[str, str]
    ) -> Optional[Failure]:
        """Why the plain requirements *lines* cannot be had beside what stands. Raises Failure when nobody can say."""
        constraints = {**self.locked, **constraints}
        try:
            if self._by_lock is not None and self._uv:
                if lines or self.standing:
                    self._by_lock.resolve(resolver.Order(tuple(lines)), self.surroundings(constraints))
            elif lines:
                options = ["--dry-run", *self._constraint_options(constraints)]
                self._run(self._argv("install", [*options, *lines]), progress, INSTALL_S)
        except Failure as failure:
            if failure.class_ not in ("conflict", "not_found"):
                raise
            return failure
        return None

    def _install(self, options: Sequence[str], progress: Progress, *, item: str, level: str) -> None:
        argv, afresh = self._argv("install", options), "--no-cache" if self._uv else "--no-cache-dir"
        attempts = PatientAttempts(SCHEDULE, self._context.outages, PLACE)

        def prepare_next(failure: Failure, wait_s: float) -> None:
            fields = {"attempt": attempts.failures + 1, "wait_s": round(wait_s, 3), "class": failure.class_}
            self._context.report("package_retried", item=item, level=level, message=failure.message, **fields)
            if failure.class_ == "checksum":  # the cached copy may be the bad one
                argv.append(afresh)

        retry.call(
            lambda: self._run(argv, progress, INSTALL_S),
            attempts,
            errors=Failure,
            wait=self._context.wait,
            may_help=lambda failure: (
                (failure.retriable or (failure.meaning.helps_afresh and afresh not in argv))
                and not (self._may_pip_try(failure) or self._context.is_over())
            ),
            before_wait=prepare_next,
        )
        self._context.outages.end(PLACE)

    def prepare(self, progress: Progress) -> None:
        """Throw away what an interrupted install left, and get uv, or a pip that is new enough.

        Raises:
            Failure: the profile wants uv, and it cannot be had. Else what cannot be had is said: the old one may do.
        """
        shutil.rmtree(self._temporary, ignore_errors=True)
        os.makedirs(self._temporary, mode=0o700, exist_ok=True)
        if self._context.is_offline:
            return
        if self._python.installer != "pip" and not self._uv:
            self._get_uv(progress)
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

    def _find_uv(self) -> str:
        """The path of uv when it is here and may be used, else empty."""
        if self._python.installer == "pip":
            return ""
        return shutil.which("uv") or shutil.which(os.path.join(self._tools, "bin", "uv")) or ""

    def _get_uv(self, progress: Progress) -> None:
        """Have pip install uv below the workspace, beside the environment: it is a tool, not a part of it."""
        progress.say("getting uv, which installs faster than pip")
        pip = [self.venv.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q"]
        once = ["--timeout", "15", "--retries", "1", "--only-binary", ":all:", "--upgrade"]
        try:
            self._run([*pip, *once, "--target", self._tools, "uv"], progress, UV_S)
            self._uv = self._find_uv()
            self._run([self._uv, "--version"], progress, UV_S)
        except Failure as failure:
            self._uv = ""
            if self._python.installer == "uv":
                failure.advise("installer_uv", command=failure.about.get("command", "pip install uv"))
                raise
            progress.say(f"uv cannot be had, pip installs: {failure.message}")

    def _may_pip_try(self, failure: Failure) -> bool:
        """True where uv is stricter than pip: what it cannot build, read or reach, pip often can."""
        if not self._uv or self._python.installer != "auto" or self._context.cancelled.is_set():
            return False
        is_of_form = pip_errors.is_of_form(failure) and bool(self._settings())
        may = failure.class_ == "command" or is_of_form or pip_errors.is_of_the_way(failure)
        return may and "pip" in self.installed()

    def logins(self) -> Dict[str, str]:
        """What each origin of an index is to be shown, as `indexes.logins` says it. Raises Failure, where a secret is not set."""
        told = indexes.logins(self._settings())
        return {**told, **indexes.logins_of(self._python.indexes, self._context.secrets)}

    def _settings(self) -> Dict[str, str]:
        """What the user told pip about indexes."""
        return indexes.configured(self.venv.path)

    def uninstall(self, names: Sequence[str], progress: Progress) -> None:
        """Remove the distributions *names*, which are installed.

        Raises:
            Failure: `command`, with the last lines.
        """
        options = [] if self._uv else ["--yes"]
        self._run(self._argv("uninstall", [*options, *names]), progress, QUICK_S)

    def _argv(self, action: str, arguments: Sequence[str]) -> List[str]:
        if self._uv:
            return [self._uv, "pip", action, "--python", self.venv.python, *arguments]
        options = ["--disable-pip-version-check", "--no-input"]
        if action == "install":
            limits = ["--timeout", f"{self._python.timeout_s:.0f}", "--retries", str(self._python.retries)]
            options += ["--progress-bar", "off", *limits]
        return [self.venv.python, "-m", "pip", action, *options, *arguments]

    def _constraint_options(self, constraints: Mapping[str, str]) -> List[str]:
        lines = self._constraint_lines(constraints)
        if not lines:
            return []
        path = os.path.join(self._context.run_directory, "constraints.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        return ["--constraint", path]

    def _constraint_lines(self, constraints: Mapping[str, str]) -> List[str]:
        held = [f"{name}=={version}" for name, version in sorted(constraints.items())]
        out = [f"{name}<0" for name in sorted(self.kept_out)]
        return held + out + requirements.as_constraints(self.standing)

    def _run(
        self,
        argv: List[str],
        progress: Progress,
        timeout_s: float,
        environment: Optional[Mapping[str, str]] = None,
    ) -> None:
        output: List[str] = []

        def keep(line: str) -> None:
            output.append(line)
            progress.line(line)

        self.forget_versions()
        done = process.run(
            argv,
            timeout_s=self._context.bounded(timeout_s),
            directory=self._context.workspace,
            environment=self._environment() if environment is None else environment,
            on_line=keep,
            cancelled=self._context.cancelled,
        )
        if done.status != 0:
            raise pip_errors.failure(argv, done.status, output, timeout_s=self._python.timeout_s)

    def _environment(self) -> Dict[str, str]:
        seconds = f"{self._python.timeout_s:.0f}"
        path = os.path.dirname(self.venv.python) + os.pathsep + os.environ.get("PATH", os.defpath)
        environment = process.child_environment(
            {
                "PIP_DEFAULT_TIMEOUT": seconds,  # nested builds read the environment only, not our flags
                "PIP_RETRIES": str(self._python.retries),
                "UV_HTTP_TIMEOUT": seconds,
                "UV_HTTP_RETRIES": str(self._python.retries),
                "UV_INDEX_STRATEGY": "unsafe-best-match",  # all indexes count alike, as for pip
                "TMPDIR": self._temporary,
                **orphans.mark(self._context),
                "VIRTUAL_ENV": self.venv.path,
                "PATH": path,
                "PYTHONUNBUFFERED": "1",
                "PYTHONNOUSERSITE": "1",
            }
        )
        environment.setdefault("PIP_CACHE_DIR", os.path.join(self._cache, "pip"))
        environment.setdefault("UV_CACHE_DIR", os.path.join(self._cache, "uv"))
        if self._uv:
            environment.setdefault(*_ROOM_OF_UV)
            environment.update(indexes.for_uv(self._settings()))
        about = (self._python.indexes, self._context.secrets, environment)
        environment.update(indexes.of_profile(*about, is_for_uv=bool(self._uv)))
        if environments.is_managed(self.venv.path):  # it was named, or taken because its torch runs here
            environment.update(PIP_BREAK_SYSTEM_PACKAGES="1", UV_BREAK_SYSTEM_PACKAGES="1")
        environment.update(_NOBODY if self._context.is_offline else {})
        return {name: value for name, value in environment.items() if name not in _ASTRAY}
