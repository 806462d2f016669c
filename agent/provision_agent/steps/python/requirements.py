"""Requirement lines as people write them: which distributions they name, and whether a file has changed.

Files are never joined into one: a missing newline at the end of one would weld two names together.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from ...host.probe import normalised

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?=$|[\[<>=!~;@\s#(,])")
_EGG = re.compile(r"#(?:.*&)?egg=([A-Za-z0-9._-]+)")
_INCLUDE = re.compile(r"\s*(?:-r|--requirement|-c|--constraint)[\s=]+(\S+)")


_BROUGHT_BY: Dict[str, Tuple[str, ...]] = {
    "attr": ("attrs",),
    "bs4": ("beautifulsoup4",),
    "Crypto": ("pycryptodome",),
    "cv2": (
        "opencv-python",
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
    "fitz": ("pymupdf",),
    "git": ("gitpython",),
    "imageio_ffmpeg": ("imageio",),
    "jwt": ("pyjwt",),
    "onnxruntime": ("onnxruntime-gpu",),
    "OpenGL": ("pyopengl",),
    "PIL": ("pillow",),
    "pynvml": ("nvidia-ml-py",),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
    "websocket": ("websocket-client",),
    "yaml": ("pyyaml",),
}
"""Distributions by a module of another name. The rest follow their module's name, or nearly."""


class Requirements(NamedTuple):
    """A requirements file with all that it includes. `digest` changes when any of them does."""

    names: List[str]
    digest: str


def read(path: str) -> Requirements:
    """Read the requirements file at *path* and the files that it includes.

    Raises:
        OSError: the file itself cannot be read; a missing included one is left to the installer to report.
    """
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        text = file.read()
    names, texts = _read(path, text, {os.path.realpath(path)})
    return Requirements(names, hashlib.sha256("\0".join(texts).encode()).hexdigest())


def names_of(lines: Iterable[str]) -> List[str]:
    """The normalised names of the distributions that *lines* ask for, in order; bare URLs and paths have none."""
    names: List[str] = []
    for line in lines:
        found = _EGG.search(line) or (None if "://" in line.split("@")[0] else _NAME.match(line))
        if found is not None and normalised(found.group(1)) not in names:
            names.append(normalised(found.group(1)))
    return names


def logical_lines(text: str) -> Iterator[Tuple[int, str]]:
    """Number and text of each line of a file that says something: continued ones together, without comments."""
    began, held = 0, ""
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        began = began or number
        held += line
        if held.endswith("\\"):
            held = held[:-1] + " "
            continue
        said = re.sub(r"(^|\s)#.*$", "", held).strip()
        if said:
            yield began, said
        began, held = 0, ""


def as_constraints(lines: Iterable[str]) -> List[str]:
    """What of the plain requirements *lines* says something of versions, as a resolver takes constraints: without extras."""
    found = []
    for line in lines:
        parts = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)(;.*)?$", line)
        if parts is not None and parts[2].strip():
            found.append(
                f"{normalised(parts[1])}{parts[2].strip().strip('()')}{' ' + parts[3] if parts[3] else ''}"
            )
    return found


def distributions_of(module: str) -> Set[str]:
    """Which distributions may bring *module*, by their names."""
    top = module.split(".")[0]
    name = normalised(top)
    return {name, f"python-{name}", f"{name}-python", *_BROUGHT_BY.get(top, ())}


def names_in(folder: str, path: str) -> List[str]:
    """The distributions that the requirements file at *path*, relative to *folder*, names; of one that cannot be read none."""
    try:
        return read(os.path.join(folder, path)).names
    except OSError:
        return []


def line_for(module: str, path: str) -> Optional[Tuple[int, str]]:
    """Number and text of the line of the requirements file *path* that brings *module*; None when none does."""
    wanted = distributions_of(module)
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for number, line in enumerate(lines, 1):
        if wanted.intersection(names_of([line])):
            return number, line.split(" #")[0].strip()
    return None


def _read(path: str, text: str, seen: Set[str]) -> "tuple[List[str], List[str]]":
    lines = text.splitlines()
    names, texts = names_of(lines), [text]
    for found in filter(None, map(_INCLUDE.match, lines)):
        included = os.path.realpath(os.path.join(os.path.dirname(path), found.group(1)))
        if included in seen or not os.path.isfile(included):
            continue
        seen.add(included)
        with open(included, encoding="utf-8-sig", errors="replace") as file:
            more_names, more_texts = _read(included, file.read(), seen)
        names += [name for name in more_names if name not in names]
        texts += more_texts
    return names, texts
