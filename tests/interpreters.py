"""Run the agent's tests on the oldest and the newest Python that this machine has; with --prepare only make what they need.

The agent must run on whatever python3 an image carries, from 3.8 on. Interpreters are looked for on PATH and
among those of pyenv; where there are no others, it is this one. The newest has every library beside the tests,
so that none of them is skipped there; the oldest has what a bare image has.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 8)


@functools.lru_cache(maxsize=None)  # noqa: UP033 - 3.8 has no other
def interpreters() -> dict[tuple[int, int], str]:
    """Every python3 from `OLDEST` on that starts and makes environments, by minor version."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(8, 20)]
    candidates += [str(path) for path in Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3")]
    found: dict[tuple[int, int], str] = {}
    for path in filter(None, candidates):
        ask = [path, "-c", "import ensurepip, sys, venv; print(sys.version)"]  # some come without
        said = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False)
        match = re.match(r"(\d+)\.(\d+)", said.stdout)
        if said.returncode == 0 and match and (version := (int(match[1]), int(match[2]))) >= OLDEST:
            found.setdefault(version, path)
    return found


class Trial:
    """The agent's tests under one Python: *has_all* with every library of the project beside them, else with pytest alone."""

    def __init__(self, version: tuple[int, int], python: str, *, has_all: bool) -> None:
        self.name = f"{version[0]}.{version[1]}"
        self._python = python
        self._has_all = has_all
        is_here = has_all and version == sys.version_info[:2]
        self._folder = Path(sys.prefix) if is_here else ROOT / f".venv-{self.name}"
        plain = [] if has_all else ["-c", "tests/agent/oldest.ini"]
        select = ["tests/agent", "-m", "not soak", "-o", f"cache_dir={self._folder / 'cache'}"]
        self._command = [str(self._folder / "bin/python"), "-m", "pytest", "-q", *plain, *select]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "agent"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def prepare(self) -> None:
        """Make the environment, unless it is there."""
        if self._folder == Path(sys.prefix):
            return
        made = self._folder / (".installed-dev" if self._has_all else ".installed")
        if made.exists() and made.stat().st_mtime >= (ROOT / "pyproject.toml").stat().st_mtime:
            return
        subprocess.run([self._python, "-m", "venv", "--clear", str(self._folder)], check=True, timeout=120)
        pip = [str(self._folder / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        packages = ["-e", ".[dev]"] if self._has_all else ["pytest", "pytest-timeout", "pytest-xdist"]
        subprocess.run([*pip, *packages], cwd=ROOT, check=True, timeout=600)
        made.touch()

    def together(self) -> subprocess.CompletedProcess[str]:
        """All of them, several at a time."""
        self.prepare()
        words = [*self._command, "-n", os.environ.get("JOBS", "3")]
        return subprocess.run(
            words, cwd=ROOT, env=self._environment, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def alone(self) -> int:
        """Those that failed, one after the other; the exit code."""
        words = [*self._command, "--last-failed", "--last-failed-no-failures", "none"]
        return subprocess.run(words, cwd=ROOT, env=self._environment, check=False).returncode


def run(trials: list[Trial]) -> int:
    """All *trials* beside each other, for the tests mostly wait; then what failed, once more and alone."""
    failed: list[Trial] = []
    with ThreadPoolExecutor() as pool:
        for trial, done in zip(trials, pool.map(Trial.together, trials), strict=True):
            print(f"-- the agent's tests on Python {trial.name}\n{done.stdout}", flush=True)
            failed += [trial] if done.returncode != 0 else []
    for trial in failed:
        print(f"-- what failed beside others on Python {trial.name}, once more and alone", flush=True)
    return max((trial.alone() for trial in failed), default=0)


def prepare(trials: list[Trial]) -> int:
    """The environments of all *trials*, beside each other."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(Trial.prepare, trials))
    return 0


def main(words: list[str]) -> int:
    found = interpreters()
    found.setdefault(sys.version_info[:2], sys.executable)
    oldest, newest = min(found), max(found)
    if oldest != OLDEST:
        print(f"Python {OLDEST[0]}.{OLDEST[1]} is not here; the oldest that is stands in for it")
    trials = [Trial(newest, found[newest], has_all=True)]
    if oldest != newest:
        trials.append(Trial(oldest, found[oldest], has_all=False))
    return prepare(trials) if words == ["--prepare"] else run(trials)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
