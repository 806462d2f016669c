"""Packages that a script's commands install."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import urlsplit

from .shell_options import left_open, parsed, place_of
from .shell_values import Values
from .shell_walk import Found
from .shell_words import Simple

_PIP_LONG = (
    "--requirement", "--requirements", "--constraint", "--index-url", "--extra-index-url", "--find-links", "--target", "--prefix",
    "--python", "--torch-backend", "--root", "--cache-dir", "--timeout", "--retries", "--upgrade-strategy", "--progress-bar", "--trusted-host",
    "--only-binary", "--no-binary", "--index-strategy", "--platform",
)  # fmt: skip
APT_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?([=/][\w.+:~-]+)?")


def apt(words: list[str], command: Simple, values: Values) -> list[Found]:
    """The packages of `apt-get install`."""
    _, rest = parsed(words[1:], ("--option", "--target-release"), "ot")
    if "install" not in rest:
        return []
    found = []
    for name in rest[rest.index("install") + 1 :]:
        if APT_NAME.fullmatch(name):
            found.append(Found("apt", {"name": name}, command.line))
        else:
            found.append(
                left_open(
                    f"`apt-get install {name}` is no package that can be told without running the script",
                    command,
                )
            )
    return found


def pip(words: list[str], command: Simple, values: Values) -> list[Found]:
    """The packages and requirements of `pip install`, whoever runs it."""
    if "install" not in words[1:4]:
        return []
    options, rest = parsed(words[words.index("install") + 1 :], _PIP_LONG, "rcift")
    found: list[Found] = []
    for file in [
        *options.get("-r", []),
        *options.get("--requirement", []),
        *options.get("--requirements", []),
    ]:
        where = place_of(file, values.folder)
        if where is None or "$" in file:
            found.append(
                left_open(
                    f"the requirements in `{file}` cannot be told: add them to `python.layers`", command
                )
            )
        else:
            found.append(Found("requirements", {"path": where}, command.line))
    kept, unknown = _options(options, command)
    found += unknown
    packages = []
    for package in rest:
        if (
            re.match(r"[A-Za-z0-9]", package)
            and "$" not in package
            and not re.search(r"^\w+[:]//|\.whl$|/$", package.split("@")[0])
        ):
            packages.append(package)
        elif re.match(r"(git\+)?https?://", package) and "$" not in package:
            packages.append(f"{_distribution(package)} @ {package}")
        else:
            found.append(
                left_open(
                    f"`pip install {package}` is no package of an index: add it to `python.layers` or as a command",
                    command,
                )
            )
    if ("-e" in options or "--editable" in options) and not packages:
        installs = f"`{' '.join(words)[:120]}` installs a folder: add it as a command"
        return [*found, left_open(installs, command)]
    if packages:
        found.append(
            Found(
                "packages", {"packages": packages, "options": kept, "name": " ".join(packages)}, command.line
            )
        )
    return found


def _options(options: dict[str, list[str]], command: Simple) -> tuple[list[str], list[Found]]:
    """Those that a layer may have; and what is open."""
    found: list[Found] = []
    kept: list[str] = [
        option for option in ("--no-deps", "--pre", "--no-build-isolation") if option in options
    ]
    for option in ("-i", "--index-url", "--extra-index-url", "--find-links", "-f"):
        long = {"-i": "--extra-index-url", "--index-url": "--extra-index-url", "-f": "--find-links"}.get(
            option, option
        )
        for url in options.get(option, []):
            if url.startswith("http") and not re.search(r"[$`\s]", url):
                kept.append(f"{long}={url}")
            else:
                found.append(
                    left_open(f"the index `{long}={url}` cannot be told: add it to `python.indexes`", command)
                )
    return kept, found


def _distribution(url: str) -> str:
    """The name of the distribution that the wheel or repository at *url* has, as far as the URL says it."""
    last = posixpath.basename(urlsplit(url.removeprefix("git+")).path.partition("@")[0])
    name = last.split("-")[0] if last.endswith(".whl") else last.removesuffix(".git")
    return re.sub(r"[^\w.-]", "-", name) or "package"
