"""Packages of Debian and Ubuntu, without a question asked and without an endless wait for the lock.

Nothing is done when all are there. One `apt-get update`, one install of all; when that fails, one by one, so that a
misspelt name costs only itself.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import Dict, List, Optional, Sequence, Tuple

from ..contract import retry
from ..contract.failures import Failure
from ..host import process
from ..run.context import Context
from ..run.outages import PatientAttempts
from .progress import Progress

ITEM = "apt"
LEVEL = "critical"
LOCK_S = 300.0
LOCK_WAIT_S = 5.0
UPDATE_S = 300.0
TOGETHER_S = 1200.0
SINGLY_S = 600.0
ONCE = retry.Schedule(attempts=1)

HISTORY = "/var/log/apt/history.log"
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?([=/].*)?")
_LOCKED = re.compile(
    r"could not get lock|unable to acquire the dpkg frontend lock|unable to lock", re.IGNORECASE
)
_HOLDER = re.compile(r"held by process (\d+)(?: \(([^)]*)\))?")
_INTERRUPTED = re.compile(r"dpkg was interrupted", re.IGNORECASE)
_UNREACHED = re.compile(
    r"temporary failure resolving|could not resolve|could not connect|connection (timed out|refused|failed)",
    re.IGNORECASE,
)
_CLASSES: Tuple[Tuple[str, str], ...] = (
    (r"no space left on device|not have enough free space", "disk_full"),
    (r"read-only file system", "read_only"),
    (
        r"unable to locate package|has no installation candidate|couldn't find any package|version .* was not found",
        "not_found",
    ),
    (
        r"temporary failure resolving|could not resolve|could not connect|connection (timed out|refused|failed)|failed to fetch",
        "network",
    ),
    (r"unmet dependencies|held broken packages", "conflict"),
)
_CASES = {"not_found": "no_such_package", "conflict": "apt_broken"}


def install(packages: Sequence[str], context: Context) -> None:
    """Have every one of *packages* installed; ``name=version`` and ``name:arch`` are understood as apt does.

    Raises:
        Failure: apt cannot be used here, or some packages cannot be had; each of those is reported by itself.
    """
    missing = [name for name in packages if not _is_installed(name, context)]
    for name in packages:
        if name not in missing:
            context.report("package_skipped", item=f"apt:{name}", level=LEVEL, reason="verified")
    if not missing:
        return
    prefix = [] if context.is_offline else _prefix()
    for name in missing:
        context.report("package_started", item=f"apt:{name}", level=LEVEL)
    started = time.monotonic()
    with Progress(context, ITEM, LEVEL) as progress:
        if context.is_offline:
            failed = {
                name: Failure(
                    "offline", f"the package `{name}` is not installed, and `--offline` asks no archive"
                )
                for name in missing
            }
        else:
            failed = _Apt(prefix, context, progress).have(missing)
    for name in missing:
        if name in failed:
            context.report("package_failed", item=f"apt:{name}", level=LEVEL, **failed[name].as_fields())
        else:
            seconds = round(time.monotonic() - started, 3)
            context.report("package_finished", item=f"apt:{name}", level=LEVEL, duration_s=seconds)
    if failed:
        first = next(iter(failed.values()))
        message = f"{len(failed)} of {len(packages)} packages cannot be installed: {', '.join(failed)}; {first.message}"
        failure = Failure(first.class_, message, case=first.case, about=first.about)
        failure.is_reported = True
        raise failure


class _Apt:
    """apt-get, patient with its lock."""

    def __init__(self, prefix: List[str], context: Context, progress: Progress) -> None:
        self._prefix = prefix
        self._context = context
        self._progress = progress

    def have(self, names: Sequence[str]) -> Dict[str, Failure]:
        """Refresh the lists and install *names*; those that cannot be had, with the reason of each.

        While archives cannot be reached that may have what is missing, they are tried again.
        """
        attempts = PatientAttempts(ONCE, self._context.outages, ITEM)
        while True:
            outage = self.update()
            failed = self.install(names)
            unreached = [each for each in failed.values() if each.class_ == "network"]
            if outage is not None:
                unreached += [each for each in failed.values() if each.class_ == "not_found"]
            wait_s = attempts.after_failure(outage or unreached[0]) if unreached else None
            if wait_s is None:
                return failed
            names = list(failed)
            fields = {"attempt": attempts.failures + 1, "wait_s": round(wait_s, 3), "class": "network"}
            message = (outage or unreached[0]).message
            self._context.report("package_retried", item=ITEM, level=LEVEL, message=message, **fields)
            if self._context.wait(wait_s):
                return failed

    def update(self) -> Optional[Failure]:
        """Refresh the lists. One that fails is no reason to stop: what is wanted may come from another.

        Returns:
            The failure of the archives that cannot be reached; None when all can.
        """
        self._progress.say("apt-get update")
        try:
            lines = self._run(["apt-get", "update", "-q"], UPDATE_S)
        except Failure as failure:
            if failure.meaning.is_of_instance or self._context.cancelled.is_set():
                raise
            self._context.report("warning", message=f"apt-get update: {failure.message}")
            return failure if failure.class_ == "network" else None
        told = [line for line in lines if line.startswith(("W:", "Err:")) and _UNREACHED.search(line)]
        return Failure("network", f"apt-get update: {told[0]}") if told else None

    def install(self, names: Sequence[str]) -> Dict[str, Failure]:
        """Install *names*; those that cannot be had, with the reason of each."""
        self._progress.say(f"installing {', '.join(names)}")
        try:
            self._install(names, TOGETHER_S)
            return {}
        except Failure as failure:
            if self._context.cancelled.is_set() or failure.meaning.is_of_instance or len(names) == 1:
                return dict.fromkeys(names, failure)
            self._progress.say(f"together they fail ({failure.message}): one by one")
        failed: Dict[str, Failure] = {}
        for name in names:
            try:
                self._install([name], SINGLY_S)
            except Failure as failure:
                failed[name] = failure
        return failed

    def _install(self, names: Sequence[str], timeout_s: float) -> None:
        options = ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
        self._run(["apt-get", "install", "-y", "-q", *options, "--", *names], timeout_s)

    def _run(self, argv: List[str], timeout_s: float) -> List[str]:
        """Run apt-get, for its lines; wait while another process has the lock, and finish what one before left half done."""
        lock_end = time.monotonic() + LOCK_S
        is_mended = False
        while True:
            status, lines = self._once(argv, timeout_s)
            text = "\n".join(lines)
            if status == 0:
                return lines
            if _INTERRUPTED.search(text) and not is_mended:
                is_mended = True
                self._context.report("warning", message="dpkg was interrupted before: finishing that first")
                self._once(["dpkg", "--configure", "-a"], timeout_s)
            elif _LOCKED.search(text) and time.monotonic() < lock_end:
                self._wait_for_lock(text)
            else:
                raise _failure([*self._prefix, *argv], status, lines)

    def _wait_for_lock(self, text: str) -> None:
        found = _HOLDER.search(text)
        who = f"{found.group(2) or 'process'} ({found.group(1)})" if found else "another process"
        self._progress.say(f"waiting for the package lock, held by {who}")
        if self._context.wait(LOCK_WAIT_S):
            raise Failure("timed_out", f"the run ended while {who} held the package lock", retriable=True)

    def _once(self, argv: List[str], timeout_s: float) -> Tuple[int, List[str]]:
        lines: List[str] = []

        def keep(line: str) -> None:
            lines.append(line)
            self._progress.line(line)

        done = process.run(
            [*self._prefix, *argv],
            timeout_s=self._context.bounded(timeout_s),
            environment=process.child_environment({"LC_ALL": "C"}),
            on_line=keep,
            cancelled=self._context.cancelled,
        )
        return done.status, lines


def preflight(packages: Sequence[str], context: Context) -> None:
    """Before anything long begins: may apt be used here at all, if anything is missing?

    Raises:
        Failure: there is no apt, or no right to use it; the step is named.
    """
    if not (context.is_offline or all(_is_installed(name, context) for name in packages)):
        _prefix()


def _prefix() -> List[str]:
    """What comes before apt-get: sudo where it is needed, and settings that survive sudo."""
    settings = ["env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=a", "LC_ALL=C"]
    if shutil.which("apt-get") is None:
        raise Failure(
            "command",
            "the step `apt` needs apt-get, which this image does not have",
            case="no_apt",
        )
    if os.geteuid() == 0:
        return settings
    if shutil.which("sudo") is None:
        raise Failure("command", "the step `apt` needs root, and there is no sudo here", case="no_root")
    if process.run(["sudo", "-n", "true"], timeout_s=10.0).status != 0:
        raise Failure("command", "the step `apt` needs root, and sudo asks for a password", case="no_root")
    return ["sudo", "-n", *settings]


def _is_installed(name: str, context: Context) -> bool:
    """What dpkg says; a wanted version must be that version."""
    if shutil.which("dpkg-query") is None:
        return False
    package, _, version = name.partition("=")
    lines: List[str] = []
    argv = ["dpkg-query", "-W", "-f=${db:Status-Status} ${Version}\\n", package]
    done = process.run(argv, timeout_s=context.bounded(30.0), on_line=lines.append)
    words = [line.split() for line in lines]
    return done.status == 0 and any(w[0] == "installed" and version in ("", w[-1]) for w in words if w)


def _failure(argv: List[str], status: int, lines: List[str]) -> Failure:
    errors = [line for line in lines if line.startswith(("E:", "dpkg:"))] or lines
    text = "\n".join(errors).lower()
    class_ = next((name for pattern, name in _CLASSES if re.search(pattern, text)), "command")
    if _LOCKED.search(text):
        class_ = "timed_out"
    why = " | ".join(errors[-3:]) or "it said nothing"
    return Failure(
        class_,
        f"apt-get ended with {status}: {why}",
        case=_CASES.get(class_, "repeat"),
        about={"command": " ".join(argv)},
        tail=lines[-process.TAIL_LINES :],
    )


def asked_for(history: str, *, since_unix: float) -> List[str]:
    """The packages that people, or their scripts, asked apt for, by name.

    Args:
        history: Of apt, as it writes it (``Start-Date: …`` and ``Commandline: apt-get install …``).
        since_unix: What is older is left out.
    """
    found: List[str] = []
    began = 0.0
    for line in history.splitlines():
        key, _, value = line.partition(": ")
        if key == "Start-Date":
            try:
                began = time.mktime(time.strptime(" ".join(value.split()), "%Y-%m-%d %H:%M:%S"))
            except ValueError:
                began = 0.0
        elif key == "Commandline" and began >= since_unix:
            found += _named(value.split())
    return sorted(set(found))


def _named(words: Sequence[str]) -> List[str]:
    """The packages in the *words* of a command of apt; none unless it installs."""
    if (
        not words
        or os.path.basename(words[0]) not in ("apt", "apt-get", "aptitude")
        or "install" not in words
    ):
        return []
    names = (word for word in words[words.index("install") + 1 :] if not word.startswith("-"))
    return [word.partition("=")[0].partition("/")[0] for word in names if _PACKAGE.fullmatch(word)]
