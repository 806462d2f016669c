"""Run the agent's tests on the oldest and the newest Python that this machine has.

The agent must run on whatever python3 an image carries, from 3.8 on. Interpreters are looked for on PATH and
among those of pyenv; what is not here is said, and fails only if nothing was tested at all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 8)


def interpreters() -> dict[tuple[int, int], str]:
    """Every python3 from `OLDEST` on that starts, by minor version."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(8, 20)]
    candidates += [str(path) for path in Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3")]
    found: dict[tuple[int, int], str] = {}
    for path in filter(None, candidates):
        said = subprocess.run([path, "-V"], capture_output=True, text=True, timeout=20, check=False)
        match = re.match(r"Python (\d+)\.(\d+)", said.stdout)
        if said.returncode == 0 and match and (version := (int(match[1]), int(match[2]))) >= OLDEST:
            found.setdefault(version, path)
    return found


class Trial:
    """The agent's tests under one Python, in an environment of their own."""

    def __init__(self, version: tuple[int, int], python: str) -> None:
        self.name = f"{version[0]}.{version[1]}"
        self._python = python
        self._folder = ROOT / f".venv-{self.name}"
        select = ["tests/agent", "-m", "not soak", "-o", f"cache_dir={self._folder / 'cache'}"]
        python_here = str(self._folder / "bin/python")
        self._command = [python_here, "-m", "pytest", "-q", "-c", "tests/agent/oldest.ini", *select]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "agent"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def prepare(self) -> None:
        """Make the environment, unless it is there."""
        if not (self._folder / "bin/pytest").exists():
            subprocess.run(
                [self._python, "-m", "venv", "--clear", str(self._folder)], check=True, timeout=120
            )
            pip = [str(self._folder / "bin/python"), "-m", "pip", "install", "-q"]
            packages = ["pytest", "pytest-timeout", "pytest-xdist"]
            subprocess.run([*pip, "--disable-pip-version-check", *packages], check=True, timeout=300)

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


def main() -> int:
    found = interpreters()
    if OLDEST not in found:
        print(f"Python {OLDEST[0]}.{OLDEST[1]} is not here; the oldest that is stands in for it")
    if not found:
        print("no other Python is here: the agent's tests ran on this one only")
        return 0
    here = sys.version_info[:2]
    chosen = [version for version in dict.fromkeys((min(found), max(found))) if version != here]
    return run([Trial(version, found[version]) for version in chosen])


if __name__ == "__main__":
    sys.exit(main())
