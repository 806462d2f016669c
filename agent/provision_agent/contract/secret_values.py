"""The value of a secret as an environment holds it: which variable, and what of it can be used. Pure; no message shows one."""

from __future__ import annotations

import re
from typing import Iterator, Mapping, Optional, Tuple

from .plan_parts import SecretRule

_QUOTES = "\"'`“”‘’"
_PLACEHOLDER = re.compile(
    r"(hf_)?(x{3,}|\*{3,}|\.{3,})"
    r"|<.*>|\[.*\]|\{.*\}"
    r"|(hf_|sk-)?(your|my|insert|enter|paste|put|add|replace)[-_ ].*"
    r"|.*[-_ ]here"
    r"|changeme|change[-_ ]me|placeholder|todo|token|secret|none|null|undefined|example|dummy",
    re.IGNORECASE,
)


def variable_of(rule: SecretRule, environ: Mapping[str, str]) -> Optional[str]:
    """The variable of *environ* that holds the secret: its own name, or the first alias that is set; None: none is."""
    return next((name for name in names_of(rule) if environ.get(name, "").strip()), None)


def names_of(rule: SecretRule) -> Iterator[str]:
    """The names under which the secret may be set, the best first."""
    yield from (rule.name, *rule.aliases)


def unset(rule: SecretRule) -> str:
    """What to say where it is not set."""
    aliases = f" (nor {', '.join(f'`{alias}`' for alias in rule.aliases)})" if rule.aliases else ""
    return f"`{rule.name}` is not set{aliases}; items that need it will fail as `unauthorized`"


def value_told(
    rule: SecretRule, source: str, told: str, *, is_variable: bool = True
) -> "Tuple[Optional[str], Tuple[str, ...]]":
    """The value of the secret, as *source* has it, and what to warn of.

    Args:
        source: The variable, or the file.
        told: What stands there.
        is_variable: People wrote it by hand: what is left out of it is said.

    Returns:
        The value, None where it cannot be used; and warnings, one sentence each.
    """
    value = _stripped(told)
    warnings: Tuple[str, ...] = ()
    if value != told and is_variable:
        warnings += (f"`{source}` has quotes, spaces or line ends around its value; they are left out",)
    wrong = _why_unusable(value, rule)
    if wrong is not None:
        return None, (*warnings, f"`{source}` {wrong}; it counts as not set")
    return value, warnings


def _stripped(value: str) -> str:
    value = value.strip()
    while len(value) > 1 and value[0] in _QUOTES and value[-1] in _QUOTES:
        value = value[1:-1].strip()
    return value


def _why_unusable(value: str, rule: SecretRule) -> Optional[str]:
    if not value.strip(_QUOTES):
        return "is empty"
    if _PLACEHOLDER.fullmatch(value):
        return "looks like a placeholder, not like a secret"
    if rule.hosts and not re.fullmatch(r"[\x21-\x7e]+", value):
        return "has characters that no HTTP header can carry"
    return None
