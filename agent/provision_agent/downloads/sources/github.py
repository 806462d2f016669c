"""GitHub: files of releases, by its API; and the page that shows a file of a repository becomes the link that downloads it.

``github://OWNER/REPO@TAG/ASSET``: the API tells the number and the sha256 of the file. Where nothing is private the
bytes come by the public link, which no limit of the API counts; else by the API, with the token. ``@latest`` is the
release of that tag where there is one, else the newest. https://docs.github.com/en/rest/releases
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NamedTuple, Optional, Tuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ...contract.failures import Failure
from ...contract.parsing import ParseError, parse, read_object
from ..http import errors, fields
from .answer import Chosen
from .http import Document, Fetch, WebServer

API = "https://api.github.com"
RELEASE_BYTES = 8 << 20
LATEST = "latest"
_TOKEN = "GITHUB_TOKEN"  # noqa: S105  # its name
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_NAMED = 5
"""So many files of a release are named where none fits."""


class _Wanted(NamedTuple):
    """A file of a release."""

    repo: str
    tag: str
    asset: str

    @property
    def link(self) -> str:
        """By which browsers get it."""
        return f"https://github.com/{self.repo}/releases/download/{quote(self.tag)}/{quote(self.asset)}"

    @property
    def form(self) -> str:
        """As a profile names it."""
        return f"github://{self.repo}@{quote(self.tag)}/{quote(self.asset)}"


@dataclass(frozen=True)
class _Asset:
    id: int
    name: str
    digest: Optional[str] = None


@dataclass(frozen=True)
class _Release:
    tag_name: str
    assets: Tuple[_Asset, ...] = ()


class GitHub(WebServer):
    """Files of releases, and files in repositories."""

    hides_what_is_private = True
    serves_more_to_tokens = True

    def address(self, url: str) -> Optional[str]:
        wanted = _wanted(url)
        if wanted is not None or url.startswith("github:"):
            return _link(wanted) if wanted else None
        parts = urlsplit(url)
        viewer = re.fullmatch(r"(/[^/]+/[^/]+)/blob/(.+)", parts.path)
        if parts.hostname != "github.com" or not viewer:
            return super().address(url)
        return urlunsplit(parts._replace(path=f"{viewer[1]}/raw/{viewer[2]}"))

    def choose(self, url: str, fetch: Fetch) -> Optional[Chosen]:
        wanted = _wanted(url)
        if wanted is None:
            return None
        told, is_moving = _ask(wanted, fetch)
        if told.status == 404:
            raise _absent(wanted, fetch)
        release = _release(told.body) if told.status == 200 else None
        if release is None:
            return Chosen(_link(wanted), name=wanted.asset)  # who may have it needs no more than the link
        found = next((asset for asset in release.assets if asset.name == wanted.asset), None)
        if found is None:
            raise _no_asset(wanted, release)
        digest = _DIGEST.fullmatch(found.digest or "")
        kept = wanted._replace(tag=release.tag_name)
        note = f"is taken from the newest release, {release.tag_name[:80]}; `{kept.form}` keeps to that"
        by_api = Chosen(
            f"{API}/repos/{wanted.repo}/releases/assets/{found.id}",
            note if is_moving else "",
            headers={"Accept": "application/octet-stream"},
            name=wanted.asset,
            sha256=digest[1] if digest else None,
            pinned=kept.form,
        )
        return by_api if told.token else by_api._replace(url=kept.link, headers={})

    def pinned(self, url: str, fetch: Fetch) -> Optional[str]:
        wanted = _wanted(url)
        if wanted is None or wanted.tag != LATEST:
            return None
        try:
            chosen = self.choose(url, fetch)
        except Failure:
            return None
        return chosen.pinned if chosen is not None else None

    def refusal(self, refused: errors.Refused, url: str, fetch: Fetch) -> Failure:
        failure = errors.refusal(refused)
        link = re.fullmatch(r"/([^/]+/[^/]+)/releases/download/(.+)/([^/]+)", urlsplit(url).path)
        if failure.class_ == "not_found" and link and not url.startswith("github:"):
            failure.advise("release_link", form=_Wanted(link[1], unquote(link[2]), unquote(link[3])).form)
        return failure


def _wanted(url: str) -> Optional[_Wanted]:
    found = re.fullmatch(r"github://([^/@]+/[^/@]+)@([^@]+)/([^/@]+)", url)
    return _Wanted(found[1], unquote(found[2]), unquote(found[3])) if found else None


def _link(wanted: _Wanted) -> str:
    """The public link, where nobody has told which release is meant."""
    newest = f"https://github.com/{wanted.repo}/releases/{LATEST}/download/{quote(wanted.asset)}"
    return newest if wanted.tag == LATEST else wanted.link


def _ask(wanted: _Wanted, fetch: Fetch) -> Tuple[Document, bool]:
    """What the API says of the release, and whether that is the newest whatever its tag."""
    releases = f"{API}/repos/{wanted.repo}/releases"
    told = fetch.ask(f"{releases}/tags/{quote(wanted.tag, safe='')}")
    if wanted.tag != LATEST or told.status != 404:
        return told, False
    return fetch.ask(f"{releases}/{LATEST}"), True


def _release(answer: bytes) -> Optional[_Release]:
    try:
        return parse(_Release, read_object(answer, max_bytes=RELEASE_BYTES))
    except ParseError:
        return None  # the API only makes an answer better


def _absent(wanted: _Wanted, fetch: Fetch) -> Failure:
    """What is not there: the repository, as far as the sender may know, or a release of that tag."""
    told = fetch.ask(f"{API}/repos/{wanted.repo}")
    page = f"https://github.com/{wanted.repo}/releases"
    if told.status != 404:
        what = "no release" if wanted.tag == LATEST else f"no release with the tag `{wanted.tag}`"
        return Failure(
            "not_found", f"{wanted.repo} on github.com has {what}", case="no_release", about={"page": page}
        )
    if told.token:
        message = f"github.com shows no repository {wanted.repo} to the account of `{told.token}`"
        return Failure("not_found", message, case="repository_hidden")
    message = f"github.com shows no repository {wanted.repo} to somebody without a token"
    return Failure("unauthorized", message, case="release_hidden", about={"token": _TOKEN})


def _no_asset(wanted: _Wanted, release: _Release) -> Failure:
    message = f"the release {release.tag_name} of {wanted.repo} has no file {fields.brief(wanted.asset)}"
    names = [asset.name for asset in release.assets]
    near = difflib.get_close_matches(wanted.asset, names, 1, 0.6)
    if near:
        return Failure("not_found", message, case="did_you_mean", about={"name": near[0]})
    listed = ", ".join(f"`{name[:80]}`" for name in names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    return Failure("not_found", message, case="no_asset", about={"names": listed or "no files"})


KIND = GitHub()
