"""The values of a profile's secrets, from the caller's environment; no message ever shows one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provision_agent.contract.plan_parts import SecretRule
from provision_agent.contract.source_kinds import DEFAULT_SECRETS, host_of

if TYPE_CHECKING:
    from .load import Profile
    from .model import Document

MAX_TOKEN_BYTES = 64 * 1024

_QUOTES = "\"'`“”‘’"
_PLACEHOLDER = re.compile(
    r"(hf_)?(x{3,}|\*{3,}|\.{3,})"
    r"|<.*>|\[.*\]|\{.*\}"
    r"|(hf_|sk-)?(your|my|insert|enter|paste|put|add|replace)[-_ ].*"
    r"|.*[-_ ]here"
    r"|changeme|change[-_ ]me|placeholder|todo|token|secret|none|null|undefined|example|dummy",
    re.IGNORECASE,
)


def secret_values(profile: Profile, environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """`values_of` the secrets that *profile* wants."""
    return values_of(profile.secret_rules, environ)


def values_of(rules: Iterable[SecretRule], environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Look up secrets.

    Args:
        rules: Say the names, and their aliases in order of preference.
        environ: The caller's environment.

    Returns:
        Values by the secret's own name, and warnings: unset, repaired, or a placeholder (which is not sent,
        for a host may refuse a wrong token where it would have served none).
    """
    values: dict[str, str] = {}
    warnings: list[str] = []
    for rule in rules:
        found = _found(rule, environ)
        if found is None:
            warnings += [] if rule.is_default else [_unset(rule)]
            continue
        source, told = found
        value = _stripped(told)
        if value != told and source in environ:
            warnings.append(f"`{source}` has quotes, spaces or line ends around its value; they are left out")
        wrong = _why_unusable(value, rule)
        if wrong:
            warnings.append(f"`{source}` {wrong}; it counts as not set")
        else:
            values[rule.name] = value
    return values, warnings


def default_rules(document: Document, own: Iterable[SecretRule]) -> tuple[SecretRule, ...]:
    """The built-in rules that stand beside a profile's *own*: those on whose hosts an item of it is.

    None stands for a name or a host that the profile speaks of itself.
    """
    names = {name for rule in own for name in (rule.name, *rule.aliases)}
    hosts = {host for rule in own for host in rule.hosts}
    used = {host_of(url) for url in _urls(document) if urlsplit(url).scheme != "http"}
    return tuple(
        rule
        for rule in DEFAULT_SECRETS
        if used.intersection(rule.hosts)
        and not names.intersection((rule.name, *rule.aliases))
        and not hosts.intersection(rule.hosts)
    )


def origin_of(rule: SecretRule, environ: Mapping[str, str]) -> str | None:
    """What the value of *rule* is taken from: a variable of *environ* or a file; None when it is not set."""
    found = _found(rule, environ)
    return None if found is None else found[0]


def _urls(document: Document) -> Iterator[str]:
    for item in document.downloads:
        yield from (item.url, *item.mirrors)
        if item.substitute is not None:
            yield item.substitute.url
    for repo in document.repos:
        yield from (repo.url, *repo.mirrors)


def _found(rule: SecretRule, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Where the value of *rule* is, and the value as it stands there; None when it is nowhere."""
    for name in (rule.name, *rule.aliases):
        if environ.get(name, "").strip():
            return name, environ[name]
    path = hub_token_path(environ) if rule.is_default and rule.name == "HF_TOKEN" else None
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8", errors="strict") as file:
            told = file.read(MAX_TOKEN_BYTES)
    except (OSError, UnicodeDecodeError):
        return None
    return (path, told) if told.strip() else None


def hub_token_path(environ: Mapping[str, str]) -> str | None:
    """Where `hf auth login` keeps its token, by the variables that it reads itself; None without a home folder."""
    if environ.get("HF_TOKEN_PATH"):
        return os.path.expanduser(environ["HF_TOKEN_PATH"])
    if environ.get("HF_HOME"):
        return os.path.join(os.path.expanduser(environ["HF_HOME"]), "token")
    home = environ.get("HOME")
    cache = environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else None)
    return os.path.join(cache, "huggingface", "token") if cache else None


def _unset(rule: SecretRule) -> str:
    aliases = f" (nor {', '.join(f'`{alias}`' for alias in rule.aliases)})" if rule.aliases else ""
    return f"`{rule.name}` is not set{aliases}; items that need it will fail as `unauthorized`"


def _stripped(value: str) -> str:
    value = value.strip()
    while len(value) > 1 and value[0] in _QUOTES and value[-1] in _QUOTES:
        value = value[1:-1].strip()
    return value


def _why_unusable(value: str, rule: SecretRule) -> str | None:
    if not value.strip(_QUOTES):
        return "is empty"
    if _PLACEHOLDER.fullmatch(value):
        return "looks like a placeholder, not like a secret"
    if rule.hosts and not re.fullmatch(r"[\x21-\x7e]+", value):
        return "has characters that no HTTP header can carry"
    return None
