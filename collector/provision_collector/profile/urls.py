"""Which URLs a profile may name, and how they are written. No secret may stand in one: a plan is stored."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qsl, urlsplit

from provision_agent.contract import source_kinds
from provision_agent.contract.redaction import public_url
from provision_agent.contract.source_kinds import Form

SECRET_PARAMETERS = ("token", "api_key", "apikey", "access_token")

_DOWNLOAD = tuple(source_kinds.forms())
_REPO = ("https", "http", "file", "ssh", "git")
_WEB = ("http", "https")

DOWNLOAD_PATTERN = f"^({'|'.join(_DOWNLOAD)}):"


_FORMS = {
    **source_kinds.forms(),
    "ssh": Form("ssh://", r"ssh://[^/]+/.+", "`ssh://git@HOST/PATH`"),
    "git": Form("git://", r"git://[^/]+/.+", "`git://HOST/PATH`"),
}
"""By scheme: how such a URL starts, what it must look like, and how to say so."""


def download_url(url: str) -> str:
    """Check where a file comes from.

    Raises:
        ValueError: no URL, another scheme, an incomplete one, or one that holds a secret.
    """
    return _checked(url, _DOWNLOAD)


def web_url(url: str) -> str:
    """As `download_url`, for something that is asked over HTTP."""
    return _checked(url, _WEB)


def endpoint_url(url: str) -> str:
    """Check where a store of buckets is: https, or http on this machine or in a private network.

    Raises:
        ValueError: no such address, or one with more in it than host and port.
    """
    _checked(url, _WEB)
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(
            f"`{_shown(url)}` has more than a host and a port: the bucket is named by the sources"
        )
    if parts.scheme == "http" and not _is_private(parts.hostname or ""):
        raise ValueError(
            f"`{_shown(url)}` would show signed addresses to the network: write `https://` "
            "(`http://` is for loopback and private addresses only)"
        )
    return url.rstrip("/")


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (address.is_private or address.is_loopback) and not address.is_link_local


def repo_url(url: str) -> str:
    """As `download_url`, for git; its short form for SSH (``git@github.com:owner/name``) too."""
    if re.match(r"/|~|\.{1,2}/", url):
        what = f"`{_shown(url)}` is a path of this machine, which no instance has"
        raise ValueError(
            f"{what}: send it with `uploads:`; a checkout on the instance itself is `file:///PATH`"
        )
    return url if re.fullmatch(r"[\w.-]+@[\w.-]+:[\w./~-]+", url) else _checked(url, _REPO)


def _checked(url: str, schemes: tuple[str, ...]) -> str:
    is_key = url.startswith(("s3://", "gs://")) and url == url.strip()  # keys of buckets may have spaces
    if not url or re.search(r"[\x00-\x1f\x7f]" if is_key else r"\s|[\x00-\x1f]", url):
        raise ValueError(f"`{url}` is not a URL: it is empty or has spaces in it")
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in schemes:
        raise ValueError(f"`{_shown(url)}` must start with {_either([_FORMS[s].start for s in schemes])}")
    if not re.fullmatch(_FORMS[scheme].pattern, url):
        raise ValueError(f"`{_shown(url)}` is not complete: write {_FORMS[scheme].example}")
    _refuse_secrets(url)
    return url


def _refuse_secrets(url: str) -> None:
    try:
        parts = urlsplit(url)
        has_login = bool(parts.password or (parts.username and parts.scheme in _WEB))
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"`{_shown(url)}` is not a URL: {str(error).lower()}") from None
    if parts.scheme in _REPO and parts.netloc.endswith(":"):
        raise ValueError(
            f"`{_shown(url)}` has a `:` and no port behind it: add the port, or leave the `:` out"
        )
    named = [name for name, _ in parse_qsl(parts.query) if name.lower() in SECRET_PARAMETERS]
    if has_login or named:
        what = f"`{named[0]}=`" if named else "a password" if parts.password else "a login"
        raise ValueError(
            f"{what} in a URL would be stored on the instance: declare the host's token under `secrets`"
        )


def _shown(url: str) -> str:
    return public_url(url.split("?")[0])


def _either(words: list[str]) -> str:
    quoted = [f"`{word}`" for word in words]
    return ", ".join(quoted[:-1]) + " or " + quoted[-1]
