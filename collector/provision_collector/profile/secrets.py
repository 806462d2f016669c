"""The values of a profile's secrets, from the caller's environment; no message ever shows one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from provision_agent.contract.plan_parts import SecretRule

if TYPE_CHECKING:
    from .load import Profile

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
        source = next((name for name in (rule.name, *rule.aliases) if environ.get(name, "").strip()), None)
        if source is None:
            warnings.append(_unset(rule))
            continue
        value = _stripped(environ[source])
        if value != environ[source]:
            warnings.append(f"`{source}` has quotes, spaces or line ends around its value; they are left out")
        wrong = _why_unusable(value, rule)
        if wrong:
            warnings.append(f"`{source}` {wrong}; it counts as not set")
        else:
            values[rule.name] = value
    return values, warnings


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
