"""Can the packages of a plan be had here, before anything of them is fetched?

Each index is asked for the files of a package; what fits this interpreter and machine is then asked for its first
byte, because an index may list what its store refuses. torch is asked for in the order in which a run tries it.
"""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Executor, Future
from dataclasses import replace
from html.parser import HTMLParser
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urljoin, urlsplit

from ...contract.failures import Failure
from ...contract.findings import Facts, IndexTold, PackageTold
from ...contract.parsing import parse
from ...contract.plan import Download, Python, Torch
from ...contract.plan_packages import PackageIndex
from ...contract.redaction import public_url
from ...downloads import Sources
from ...run.context import Context
from ...run.interpreters import path_meant
from . import builds, indexes, requirements, torch, venv
from .tags import Target, has_version, is_release, name_of

LISTING_BYTES = 32 << 20
ASK_S = 20.0
ALL_S = 3600.0
LEVEL = "critical"
_PINNED = re.compile(r"\s*[A-Za-z0-9._-]+\s*(?:\[[^\]]*\])?\s*===?\s*([^\s;,*#]+)\s*(?:[;#].*)?")


def ask(
    python: Python, found: Mapping[str, object], access: Sources, context: Context, pool: Executor
) -> List[PackageTold]:
    """What the indexes have of the layers of *python*, in their order.

    Args:
        found: The instance's facts.
        access: Asks the indexes.
        pool: Where the questions wait for their answers.
    """
    facts = parse(Facts, found, "facts")
    path = path_meant(python, context, facts)
    target = Target.of(venv.version_at(path, context, facts))
    until = time.monotonic() + context.bounded(ALL_S)
    wheels = Wheels(access, indexes.configured(path), target, until=until, own=python.indexes)
    asked: List["Future[PackageTold]"] = []
    for layer in python.layers:
        if layer.torch is not None:
            asked.append(pool.submit(wheels.of_torch, layer.torch, facts))
        if not any(line.startswith("-") for line in layer.packages):  # such options may name another index
            lines = [line for line in layer.packages if "://" not in line and requirements.names_of([line])]
            asked += [pool.submit(wheels.of_package, line) for line in lines]
    rows = [told.result() for told in asked]
    present = next((each.torch for each in facts.venvs if each.path == path), None)
    return [replace(row, present=present) if row.item == torch.ITEM else row for row in rows]


class Wheels:
    """Asks the indexes of one environment. Safe to use from several threads."""

    def __init__(
        self,
        access: Sources,
        settings: Mapping[str, str],
        target: Target,
        *,
        until: float,
        own: Sequence[PackageIndex] = (),
    ) -> None:
        self._access = access
        more = [settings.get("extra-index-url", ""), *(index.url for index in own)]
        self._settings = {**settings, "extra-index-url": " ".join(filter(None, more))} if own else settings
        self._own = own
        self._target = target
        self._until = until
        self._listings: Dict[str, List[str]] = {}
        self._lock = threading.Lock()

    def of_torch(self, wanted: Torch, facts: Facts) -> PackageTold:
        """What a run would install for the layer *wanted*; chosen is ``torch 2.9.1+cu128``, say."""
        try:
            found = builds.candidates(wanted, facts)
        except Failure as failure:
            return self._row(
                torch.ITEM, None, failure.message, [IndexTold.refused(torch.ITEM, None, failure)]
            )
        asked: List[IndexTold] = []
        for candidate in found:
            for source in torch.sources(wanted, candidate, self._settings):
                asked.append(self._ask("torch", source.requirement, source.urls, candidate.title))
                if asked[-1].class_ == "ok":
                    return self._row("torch", candidate.title, candidate.why, asked)
        return self._row("torch", None, "none of the candidates can be had", asked)

    def of_package(self, line: str) -> PackageTold:
        """Whether the requirement *line* can be had; like `of_torch`, with one answer in ``asked``."""
        name = requirements.names_of([line])[0]
        told = self._ask(name, line, indexes.urls(self._settings), line)
        return self._row(line, line if told.class_ == "ok" else None, "", [told])

    def has_wheel(self, line: str) -> bool:
        """Whether an index has a wheel of the requirement *line* that fits; what cannot be told counts as no."""
        name, pinned = requirements.names_of([line])[0], _PINNED.fullmatch(line)
        version = pinned.group(1) if pinned else None
        for url in filter(_can_be_asked, indexes.urls(self._settings)):
            try:
                files = [name_of(file) for file in self._files(f"{url.rstrip('/')}/{name}/")]
            except Failure:
                continue
            wheels = [file for file in files if file.endswith(".whl") and has_version(file, name, version)]
            if any(map(self._target.takes, wheels)):
                return True
        return False

    def _ask(self, name: str, line: str, urls: Sequence[str], title: str) -> IndexTold:
        """The answer of the first of *urls* that has it, else of the last one."""
        pinned = _PINNED.fullmatch(line)
        version = pinned.group(1) if pinned else None
        shown: Optional[str] = None
        failure = Failure("not_found", "there is no index to ask")
        for url in filter(_can_be_asked, urls):
            shown = public_url(url)
            try:
                file = self._fitting(name, version, self._files(f"{url.rstrip('/')}/{name}/"))
                size = self._size(file)
            except Failure as caught:
                failure = caught
                continue
            if not version:
                return IndexTold(title=title, url=shown, class_="ok")
            return IndexTold(title=title, url=shown, class_="ok", file=name_of(file), size_bytes=size)
        failure.advise("no_such_version")
        return IndexTold.refused(title, shown, failure)

    def _fitting(self, name: str, version: Optional[str], files: Sequence[str]) -> str:
        """Of *files* that have *version* and fit the last listed one, a release and a wheel before others."""
        have = [file for file in files if has_version(name_of(file), name, version)]
        fit = [file for file in have if self._target.takes(name_of(file))]
        if fit:
            return max(
                reversed(fit), key=lambda file: (is_release(name_of(file)), name_of(file).endswith(".whl"))
            )
        wanted = f"{name} {version}" if version else name
        here = f"Python {'.'.join(map(str, self._target.python))} on {self._target.machine}"
        raise Failure("not_found", f"no file of {wanted} is for {here}" if have else f"it has no {wanted}")

    def _files(self, listing: str) -> List[str]:
        """The URL of every file on the page *listing*."""
        with self._lock:
            known = self._listings.get(listing)
        if known is None:
            self._show_login(listing)
            response, answer = self._access.open(
                listing, span=None, deadline=self._deadline(), connect_s=10.0
            )
            try:
                page = response.read(LISTING_BYTES, max(0.1, self._deadline() - time.monotonic()))
            finally:
                response.close()
            base = answer.location if answer.is_redirected else listing  # that may hold the index's password
            known = list(_links(page.decode("utf-8", "replace"), base))
            with self._lock:
                self._listings[listing] = known
        return known

    def _size(self, file: str) -> Optional[int]:
        """The length of *file*, whose first byte can be had."""
        self._show_login(file)
        response, answer = self._access.open(file, span=(0, 1), deadline=self._deadline(), connect_s=10.0)
        response.close()
        return answer.size_bytes

    def _show_login(self, url: str) -> None:
        """Where *url* is on the host of an index of the plan, that index's login goes along."""
        for index in self._own:
            if index.basic is not None and urlsplit(index.url)[:2] == urlsplit(url)[:2]:
                self._access.add(Download(url, "index", basic=index.basic))

    def _row(self, item: str, chosen: Optional[str], why: str, asked: List[IndexTold]) -> PackageTold:
        places = [*indexes.urls(self._settings), *self._settings.get("find-links", "").split()]
        is_certain = chosen is not None or all(map(_can_be_asked, places))
        return PackageTold(item, LEVEL, chosen, why, tuple(asked), is_certain)

    def _deadline(self) -> float:
        return min(self._until, time.monotonic() + ASK_S)


def _can_be_asked(place: str) -> bool:
    """A folder of wheels is left to pip."""
    return urlsplit(place).scheme in ("http", "https")


class _Page(HTMLParser):
    """The simple repository API as HTML: each anchor is a file."""

    def __init__(self) -> None:
        super().__init__()
        self.links: List[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[Tuple[str, Optional[str]]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _links(page: str, base: str) -> Iterator[str]:
    parser = _Page()
    parser.feed(page)
    for link in parser.links:
        yield urljoin(base, link.partition("#")[0])
