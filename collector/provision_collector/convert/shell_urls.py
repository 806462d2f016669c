"""Addresses in the words of a script: what they are called, and the same without their tokens."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from provision_agent.contract.source_kinds import forms

from ..profile.urls import SECRET_PARAMETERS

ADDRESS = re.compile(rf"({'|'.join(forms())}|git|ssh)[:@]")
URL = re.compile(r"(?:https?|git|ssh)://[^\s\"'`|<>;)(\\]+")


def plain(url: str) -> str:
    """The same for every way to write the address of one thing."""
    url = without_token(url).split("?download=")[0].rstrip("/").removesuffix(".git")
    url = re.sub(r"^hf://([^/]+/[^/@]+)/(.+)$", r"https://huggingface.co/\1/resolve/main/\2", url)
    url = re.sub(r"^hf://", "https://huggingface.co/", url)
    return re.sub(r"^(https://huggingface\.co/[^/]+/[^/]+)/blob/", r"\1/resolve/", url)


def parts_of(entry: str) -> list[str]:
    """What an entry says: `url|fallback|name`, `url | path`, or two words."""
    parts = entry.split("|") if "|" in entry else entry.split() if ADDRESS.match(entry) else [entry]
    return [part.strip() for part in parts if part.strip()]


def without_token(url: str) -> str:
    """*url* without its token or login: that belongs into the environment, and the profile names it there."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        url = urlunsplit(parts)
    kept = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name.lower() not in SECRET_PARAMETERS
    ]
    return urlunsplit(parts._replace(query=urlencode(kept))) if parts.query else url


def without_tokens(sentence: str) -> str:
    return URL.sub(lambda match: without_token(match[0]), sentence)


def file_of(url: str) -> str:
    """The name in the URL; nothing where the server must give it, so that the path names a folder."""
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    return name if re.fullmatch(r"[^/\\]+\.\w{2,12}", name) else ""


def shown(entry: str) -> str:
    return "|".join(without_token(part) for part in entry.split("|"))
