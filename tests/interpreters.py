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


def run(version: tuple[int, int], python: str) -> int:
    """The agent's tests under *python*, in an environment of their own."""
    name = f"{version[0]}.{version[1]}"
    folder = ROOT / f".venv-{name}"
    if not (folder / "bin/pytest").exists():
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True, timeout=120)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "pytest", "pytest-timeout", "pytest-xdist"], check=True, timeout=300)
    print(f"-- the agent's tests on Python {name}", flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent"), "PYTHONDONTWRITEBYTECODE": "1"}
    select = ["tests/agent", "-m", "not soak", "-o", f"cache_dir={folder / 'cache'}"]
    command = [str(folder / "bin/python"), "-m", "pytest", "-q", "-c", "tests/agent/oldest.ini", *select]
    together = [*command, "-n", os.environ.get("JOBS", "4")]
    if subprocess.run(together, cwd=ROOT, env=environment, check=False).returncode == 0:
        return 0
    print("-- what failed beside others, once more and alone: only what fails again counts", flush=True)
    alone = [*command, "--last-failed", "--last-failed-no-failures", "none"]
    return subprocess.run(alone, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    found = interpreters()
    if OLDEST not in found:
        print(f"Python {OLDEST[0]}.{OLDEST[1]} is not here; the oldest that is stands in for it")
    if not found:
        print("no other Python is here: the agent's tests ran on this one only")
        return 0
    here = sys.version_info[:2]
    chosen = [version for version in dict.fromkeys((min(found), max(found))) if version != here]
    return max((run(version, found[version]) for version in chosen), default=0)


if __name__ == "__main__":
    sys.exit(main())
