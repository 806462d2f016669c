"""SOURCE_KINDS: every kind of source that a file may come from, how its addresses are written, and its hosts' rules.

To add one: an entry here, and a module of the same name in `downloads/sources/`, which says how it is asked. Pure.
"""

from __future__ import annotations

import re
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

from .plan_parts import HostLimits, SecretRule


class Form(NamedTuple):
    """One way to write an address."""

    start: str
    """What every address of this form begins with: a scheme, its colon, and perhaps slashes."""
    pattern: str
    """What all of it looks like."""
    example: str
    """How to say so, as Markdown."""
    many: str = ""
    """What an address looks like that means all files of a place; empty: there is no such."""

    @property
    def scheme(self) -> str:
        """The part before the colon."""
        return self.start.partition(":")[0]


class Host(NamedTuple):
    """A host of a kind, with all names below it."""

    name: str
    limits: HostLimits = HostLimits()
    """It throttles or refuses whoever asks for more at once."""
    wants: str = ""
    """The usual name of the secret that holds the token which it wants."""


class Offers(NamedTuple):
    """What a kind of source can do, each in words for people; empty: it cannot. A test holds it to every one."""

    login: str = ""
    """Which secrets open what is not public."""
    ranges: str = ""
    """Whether parts of a file can be had, so that several connections share it and it is resumed."""
    hash: str = ""
    """Whether it tells a file's hash."""
    listing: str = ""
    """Whether one item may mean many files."""
    renewal: str = ""
    """What becomes of a file whose address expires in the middle."""


class SourceKind(NamedTuple):
    """What must be known of a kind before anybody is asked."""

    forms: Tuple[Form, ...] = ()
    hosts: Tuple[Host, ...] = ()
    """Whose http(s) links are of this kind; the first one is how people know it."""
    endpoint_variable: str = ""
    """The environment variable that names a stand-in for the first host, as a URL."""
    headers: Tuple[str, ...] = ()
    """Who answers with one of these speaks this kind's language, whatever its host: a mirror, say."""
    offers: Offers = Offers()

    def endpoint(self, environment: Mapping[str, str]) -> str:
        """The URL that requests to this kind start with, without a slash at its end."""
        given = environment.get(self.endpoint_variable, "").rstrip("/") if self.endpoint_variable else ""
        return given or f"https://{self.hosts[0].name}"


WEB_SERVER = "http"
"""The kind of every http(s) URL whose host belongs to no other kind."""

_GENTLE = HostLimits(files=1)
_ONE_CONNECTION = HostLimits(connections=1)
_DRIVE = HostLimits(files=2, connections=1)

_OWN = "a `secrets` rule, `headers` or `basic`"
_RENEWED = "asked anew, the part is kept"

_AIR = r"air:[^:]*:[^:]*:civitai:[0-9]+(@[0-9]+)?(:[^.]*)?(\.\w+)?"

SOURCE_KINDS: Dict[str, SourceKind] = {
    WEB_SERVER: SourceKind(
        forms=(
            Form("https://", r"https://[^/?#]+.*", "`https://HOST/PATH`"),
            Form("http://", r"http://[^/?#]+.*", "`http://HOST/PATH`"),
        ),
        offers=Offers(login=_OWN, ranges="where the server has them", renewal=_RENEWED),
    ),
    "local": SourceKind(
        forms=(Form("file:///", r"file:///.+", "`file:///PATH` (on the instance)"),),
        offers=Offers(ranges="it is copied"),
    ),
    "hugging_face": SourceKind(
        forms=(
            Form(
                "hf://",
                r"hf://((datasets|spaces)/)?[^/@]+/[^/@]+(@[^/]+)?(/.*)?",
                "`hf://OWNER/REPO/PATH`, `hf://OWNER/REPO@COMMIT/PATH`, or `hf://OWNER/REPO` for all of it",
                many=r"hf://((datasets|spaces)/)?[^/@]+/[^/@]+(@[^/]+)?(/|/.+/)?",
            ),
        ),
        hosts=(Host("huggingface.co", wants="HF_TOKEN"),),
        endpoint_variable="HF_ENDPOINT",
        headers=("X-Error-Code", "X-Linked-Etag"),
        offers=Offers(
            login="`HF_TOKEN`",
            ranges="yes",
            hash="sha256 of large files; with `layout: hub` of all",
            listing="a repository, or a folder of it",
            renewal=_RENEWED,
        ),
    ),
    "civitai": SourceKind(
        forms=(
            Form(
                "civitai:",
                r"civitai:/{0,2}([0-9]+@)?[0-9]+",
                "`civitai:VERSION`, the number of the model version, or `civitai:MODEL@VERSION`",
            ),
            Form("urn:", rf"urn:{_AIR}", "`urn:air:…:civitai:MODEL@VERSION`, as Civitai's pages show it"),
            Form("air:", _AIR, "`air:…:civitai:MODEL@VERSION`"),
        ),
        hosts=tuple(
            Host(name, _GENTLE, wants="CIVITAI_TOKEN")
            for name in ("civitai.com", "civitai.red", "civitai.green")
        ),
        offers=Offers(
            login="`CIVITAI_TOKEN`", ranges="yes", hash="sha256, from the catalogue", renewal=_RENEWED
        ),
    ),
    "google_drive": SourceKind(
        hosts=(
            Host("drive.google.com", _DRIVE),
            Host("docs.google.com"),
            Host("drive.usercontent.google.com", _DRIVE),
        ),
        offers=Offers(ranges="yes, one connection"),
    ),
    "dropbox": SourceKind(
        hosts=(
            Host("dropbox.com", _ONE_CONNECTION, wants="DROPBOX_TOKEN"),
            Host("dropboxusercontent.com", _ONE_CONNECTION),
        ),
        offers=Offers(ranges="yes, one connection", renewal=_RENEWED),
    ),
    "github": SourceKind(
        forms=(
            Form(
                "github://",
                r"github://[^/@]+/[^/@]+@[^@]+/[^/@]+",
                "`github://OWNER/REPO@TAG/ASSET`, a file of a release; `@latest` is the newest",
            ),
        ),
        hosts=(Host("github.com"),),
        offers=Offers(
            login="`GITHUB_TOKEN`", ranges="yes", hash="sha256, of files of releases", renewal=_RENEWED
        ),
    ),
    "bucket": SourceKind(
        forms=(
            Form(
                "gs://",
                r"gs://[a-z0-9][a-z0-9._-]+/([^/].*)?",
                "`gs://BUCKET/KEY`, an object of Google Cloud Storage, or `gs://BUCKET/PREFIX/` for all below it",
                many=r"gs://[^/]+/(.*/)?",
            ),
        ),
        hosts=(Host("storage.googleapis.com"),),
        endpoint_variable="STORAGE_EMULATOR_HOST",
        offers=Offers(login=_OWN, ranges="yes", listing="a prefix"),
    ),
    "s3": SourceKind(
        forms=(
            Form(
                "s3://",
                r"s3://[A-Za-z0-9][A-Za-z0-9._-]+/([^/].*)?",
                "`s3://BUCKET/KEY`, an object of any S3 store, or `s3://BUCKET/PREFIX/` for all below it",
                many=r"s3://[^/]+/(.*/)?",
            ),
        ),
        offers=Offers(
            login="keys under `buckets`, which stay on your machine",
            ranges="yes",
            hash="sha256, where the store keeps one",
            listing="a prefix",
            renewal="signed anew by whoever has the keys, the part is kept",
        ),
    ),
}
"""Every kind, by name; `downloads/sources/` has a module of that name for each."""

DEFAULT_SECRETS = (
    SecretRule("HF_TOKEN", ("huggingface.co",), ("HUGGINGFACE_HUB_TOKEN",), is_default=True),
    SecretRule("CIVITAI_TOKEN", ("civitai.com",), ("CIVITAI_API_KEY",), is_default=True),
    SecretRule("GITHUB_TOKEN", ("github.com", "api.github.com"), ("GH_TOKEN",), is_default=True),
)
"""Rules that stand without an entry in a profile, where an item of it is on one of their hosts."""


def forms() -> Dict[str, Form]:
    """Every way to write an address, by its scheme."""
    return {form.scheme: form for kind in SOURCE_KINDS.values() for form in kind.forms}


def kind_of(url: str, environment: Optional[Mapping[str, str]] = None) -> Optional[str]:
    """The name of the kind that *url* belongs to; None when it is written in no known form.

    Args:
        url: As a profile has it; it need not be complete.
        environment: Where stand-ins of hosts are named (`SourceKind.endpoint_variable`); None: there are none.
    """
    scheme = url.partition(":")[0]
    owner = next((name for name, kind in SOURCE_KINDS.items() if _has_form(kind, scheme)), None)
    if owner != WEB_SERVER:
        return owner
    for name, kind in SOURCE_KINDS.items():
        if kind.endpoint_variable and url.startswith(kind.endpoint(environment or {}) + "/"):
            return name
    found = _rule_of(_hostname(url))
    return found[0] if found else WEB_SERVER


def is_known(url: str) -> bool:
    """True when *url* is written in a known form and is complete."""
    form = forms().get(url.partition(":")[0])
    return form is not None and re.fullmatch(form.pattern, url) is not None


def means_many_files(url: str) -> bool:
    """True when *url* means all files of a place, such as a whole repository, and not one file."""
    form = forms().get(url.partition(":")[0])
    return form is not None and bool(form.many) and re.fullmatch(form.many, url) is not None


def speaker_of(header: Callable[[str], Optional[str]]) -> Optional[str]:
    """The name of the kind whose language the sender of an answer speaks; None when nothing tells.

    Args:
        header: Gives the value of one header field of the answer, None when it has none.
    """
    spoken = (name for name, kind in SOURCE_KINDS.items() if any(map(header, kind.headers)))
    return next(spoken, None)


def host_of(url: str) -> str:
    """The host that *url* leads to, as people know it: ``hf://…`` is ``huggingface.co``."""
    kind = SOURCE_KINDS.get(kind_of(url) or "")
    if kind is not None and kind.hosts and any(url.startswith(f"{form.scheme}:") for form in kind.forms):
        return kind.hosts[0].name
    return "this disk" if url.startswith("file:") else _hostname(url) or url


def host_limits(own: Optional[Mapping[str, HostLimits]] = None) -> Dict[str, HostLimits]:
    """The limits by host, which hold for names below it too: the built-in ones, where *own* says nothing else."""
    merged = {host.name: host.limits for _, host in _hosts() if host.limits != HostLimits()}
    for name, given in (own or {}).items():
        built_in = merged.get(name, HostLimits())
        merged[name] = HostLimits(
            files=given.files if given.files is not None else built_in.files,
            connections=given.connections if given.connections is not None else built_in.connections,
        )
    return merged


class Cap(NamedTuple):
    """The most of something at once, for `host` and all names below it together."""

    host: str
    most: int


def caps(own: Mapping[str, HostLimits], field: str, *hosts: str) -> List[Cap]:
    """What holds of one *field* of the limits for a file that is had by way of *hosts*.

    That is the host that the user wrote, the one that this becomes, and the one that redirects lead to. A rule of the
    user's for any of them goes before what is built in for any; for one host, the rule that names it most exactly.

    Args:
        own: The user's rules.
        field: ``files`` or ``connections``.
    """
    built_in = {host.name: host.limits for _, host in _hosts()}
    for rules in (own, built_in):
        found = [_nearest(rules, field, host) for host in dict.fromkeys(hosts)]
        if any(found):
            return list(dict.fromkeys(cap for cap in found if cap is not None))
    return []


def _nearest(rules: Mapping[str, HostLimits], field: str, host: str) -> Optional[Cap]:
    named = [name for name, limits in rules.items() if is_below(host, name) and getattr(limits, field)]
    name = max(named, key=len, default=None)
    return None if name is None else Cap(name, getattr(rules[name], field))


def own_limits(limits: Mapping[str, HostLimits]) -> Dict[str, HostLimits]:
    """What is left of *limits* without that which `host_limits` adds by itself."""
    built_in = host_limits()
    own = {}
    for name, given in limits.items():
        known = built_in.get(name, HostLimits())
        own[name] = HostLimits(
            files=None if given.files == known.files else given.files,
            connections=None if given.connections == known.connections else given.connections,
        )
    return {name: given for name, given in own.items() if given != HostLimits()}


def secret_for(host: str) -> Optional[str]:
    """The usual name of the token that *host* wants; None when it wants none that is known."""
    found = _rule_of(host)
    return found[1].wants or None if found else None


def is_below(host: str, name: str) -> bool:
    """True when *host* is *name*, or a name below it."""
    return host == name or host.endswith("." + name)


def _has_form(kind: SourceKind, scheme: str) -> bool:
    return any(form.scheme == scheme for form in kind.forms)


def _hosts() -> "Iterator[Tuple[str, Host]]":
    return ((name, host) for name, kind in SOURCE_KINDS.items() for host in kind.hosts)


def _rule_of(host: str) -> "Optional[Tuple[str, Host]]":
    return next(((kind, rule) for kind, rule in _hosts() if is_below(host, rule.name)), None)


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
