"""Which repository brings which class of nodes: the list that ComfyUI-Manager's package on the index ships, fetched when it is asked for.

It is kept for a week. Where it cannot be had, classes of unknown origin are listed.
"""

from __future__ import annotations

import io
import os
import re
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin

from .documents import items, mapping, read_json
from .known_nodes import REPOSITORIES

PACKAGE = "comfyui-manager"
_MEMBER = "extension-node-map.json"
_INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_PYPI = "https://pypi.org/simple"
KEPT_S = 7 * 86400.0
TIMEOUT_S = 10.0
MOST_BYTES = 64 << 20
CORE = "https://github.com/comfyanonymous/ComfyUI"


@dataclass(frozen=True)
class NodeList:
    """Repositories by class, and the classes of ComfyUI itself."""

    repositories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    core: frozenset[str] = frozenset()
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Repositories by their own name in lower case, which mostly is the name in ComfyUI's registry."""

    @classmethod
    def of(cls, data: object) -> NodeList:
        """The list in *data*, the JSON of `extension-node-map.json`; what has another shape is passed over."""
        repositories: dict[str, tuple[str, ...]] = {}
        core: frozenset[str] = frozenset()
        named: dict[str, tuple[str, ...]] = {}
        for url, about in mapping(data).items():
            classes = [name for name in items(next(iter(items(about)), [])) if isinstance(name, str)]
            if url.rstrip("/") == CORE:
                core = frozenset(classes)
            elif re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
                name = url.rpartition("/")[2].removesuffix(".git").lower()
                named[name] = (*named.get(name, ()), url)
                for name in classes:
                    repositories[name] = (*repositories.get(name, ()), url)
        return cls(repositories, core, named)


def repository_of(
    name: str, node_list: Callable[[], NodeList | None] = lambda: None, classes: Iterable[str] = ()
) -> str | None:
    """The one repository of the custom node *name* of ComfyUI's registry, which offers *classes*; None where several or none may be it.

    *node_list* is called where it is not known without.
    """
    wanted = name.strip("/").lower()
    if wanted in REPOSITORIES or (known := node_list()) is None:
        return REPOSITORIES.get(wanted)
    of_that_name = known.named.get(wanted, ())
    if len(of_that_name) == 1:
        return of_that_name[0]
    for each in classes:
        offering = known.repositories.get(each, ())
        both = [url for url in offering if url in of_that_name] or list(offering)
        if len(both) == 1:
            return both[0]
    return None


def fetched() -> NodeList | None:
    """The list, from this machine's cache or the index that pip and uv are told of; None where it cannot be had."""
    kept = _cache() / "comfyui-node-list.json"
    try:
        if time.time() - kept.stat().st_mtime < KEPT_S:
            return NodeList.of(read_json(kept.read_bytes()))
    except (OSError, ValueError):
        pass
    try:
        data = _member(_wheel())
        found = NodeList.of(read_json(data))
    except (OSError, ValueError, zipfile.BadZipFile, KeyError):
        return None
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f"{kept.name}.{os.getpid()}")
        temporary.write_bytes(data)
        temporary.replace(kept)
    except OSError:
        pass  # it is fetched again the next time
    return found


def _cache() -> Path:
    import platformdirs  # it wants POSIX modules; a profile is made anywhere

    return Path(platformdirs.user_cache_path("provision"))


def _wheel() -> bytes:
    index = next((url for name in _INDEXES if (url := os.environ.get(name))), _PYPI)
    page = f"{index.rstrip('/')}/{PACKAGE}/"
    links = _Links()
    links.feed(_read(page).decode("utf-8", "replace"))
    wheels = [link for link in links.found if urldefrag(link)[0].split("?")[0].endswith(".whl")]
    if not wheels:
        raise ValueError(f"{page} has no wheel")
    return _read(urljoin(page, urldefrag(max(wheels, key=_version))[0]))


def _version(link: str) -> tuple[int, ...]:
    found = re.search(r"-(\d[\d.]*)-", link)
    return tuple(map(int, filter(None, found[1].split(".")))) if found else ()


def _read(url: str) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url} is no address")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310  # looked at above
        data: bytes = answer.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{url} is larger than {MOST_BYTES} bytes")
    return data


def _member(wheel: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        name = next(name for name in [*archive.namelist(), ""] if name.endswith(_MEMBER) or not name)
        with archive.open(name) as file:
            return file.read(MOST_BYTES)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the links of an index's page."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]
