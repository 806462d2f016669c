"""Under which name this program is installed: never one that is somebody else's on the package index."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import provision_collector
import pytest
from provision_collector.distribution import DISTRIBUTION, install_hint, version

ROOT = Path(__file__).parents[2]
PLACES = (
    "*.md",
    "Makefile",
    "pyproject.toml",
    "docs",
    "agent",
    "collector",
    "provision_profiles",
    "benchmarks",
    ".github",
)
INSTALLS = re.compile(
    r"(?:\b(?:pip3?|uv|pipx|poetry|conda|pdm)\b[^\n`]*?\b(?:install|add|run|download|wheel)\b|\buvx\b)([^\n`]*)"
)
FOREIGN = re.compile(r"(?<![\w./@-])provision(?:\[[\w,]*\])?(?![\w/-]|\.\w)")
"""The bare name as something to install: no path, no URL, no longer name."""
RUNS_IT = re.compile(r"&&.*|;.*|\|.*|\n.*")
"""What comes after the install in the same line is another command."""


def told_to_install(text: str) -> list[str]:
    """The commands of *text* that would install what is called `provision` on the index."""
    found = INSTALLS.finditer(text)
    return [each[0] for each in found if FOREIGN.search(RUNS_IT.sub("", each[1]))]


def texts() -> Iterator[Path]:
    """Every document, message and built-in profile."""
    for place in PLACES:
        for path in sorted(ROOT.glob(place)):
            files = path.rglob("*") if path.is_dir() else [path]
            yield from (
                file for file in files if file.is_file() and file.suffix not in (".pyc", ".png", ".webp")
            )


@pytest.mark.parametrize(
    "command",
    [
        "pip install provision",
        "pip install 'provision[server]'",
        "python3 -m pip install --quiet provision==0.1 && provision demo",
        "uv tool install provision",
        'pipx install "provision[server]"',
        "uvx provision up",
    ],
)
def test_the_search_finds_every_form_of_telling_to_install_it(command: str) -> None:
    assert told_to_install(f"Type `{command}` first.\n")


@pytest.mark.parametrize(
    "command",
    ["pip install '.[server]' && provision serve", f"pip install {DISTRIBUTION}", "pip install ./provision/"],
)
def test_the_search_leaves_what_is_ours_alone(command: str) -> None:
    assert told_to_install(command) == []


def test_no_document_and_no_message_tells_to_install_a_name_that_is_not_ours() -> None:
    read = {path: path.read_text(encoding="utf-8", errors="replace") for path in texts()}
    assert ROOT / "docs" / "SERVER.md" in read

    assert {str(path): told_to_install(text) for path, text in read.items() if told_to_install(text)} == {}


def test_the_distribution_has_a_name_of_its_own_and_the_command_keeps_its() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]

    assert project["name"] == DISTRIBUTION == "provision-gpu"
    assert project["scripts"] == {"provision": "provision_collector.cli:main"}
    assert [line for line in extras if re.match(r"provision\b(?!-gpu)", line)] == []
    assert metadata.version(DISTRIBUTION) == version() == project["version"]


def test_the_command_says_its_version() -> None:
    program = Path(sys.executable).with_name("provision")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=20)

    assert version() in done.stdout


def test_a_server_without_its_libraries_says_a_command_that_works_today(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ImportError('no uvicorn', name='uvicorn')\n")
    code = "from provision_collector.cli import main; main(['serve', '--listen', '127.0.0.1:0'])"
    paths = [str(tmp_path), *sys.path, str(Path(provision_collector.__file__).parents[1])]
    argv = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)

    assert done.returncode == 2
    assert "`provision serve` needs `uvicorn`" in done.stderr
    assert install_hint("server") in " ".join(done.stderr.split())
