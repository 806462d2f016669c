"""Whom the hub's token belongs to: four answers, for `doctor` and `check --online`. Asked from this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from provision_agent.contract.findings import WhoamiAnswer, WhoamiRequest
from provision_agent.contract.plan_parts import SecretRule

from ..errors import ProvisionError
from ..instance import as_answer, ask_here

HUB = "huggingface.co"
PAGE = "https://huggingface.co/settings/tokens"
ASK_WITHIN_S = 40.0


@dataclass(frozen=True)
class TokenOwner:
    """What the hub says of one token. `state`: valid | invalid | other_kind | unreachable."""

    name: str
    """Of the secret."""
    state: str
    message: str
    hint: str = ""

    @property
    def is_ok(self) -> bool:
        return self.state == "valid"


async def token_owners(rules: Iterable[SecretRule], values: Mapping[str, str]) -> list[TokenOwner]:
    """Ask the hub about every token of *rules* that it would be shown, and that is set in *values*."""
    names = [rule.name for rule in rules if HUB in rule.hosts and rule.name in values]
    return [await _asked(name, values[name]) for name in names]


async def _asked(name: str, token: str) -> TokenOwner:
    try:
        answer = await ask_here(
            "whoami", WhoamiRequest(token), as_answer(WhoamiAnswer), timeout_s=ASK_WITHIN_S
        )
    except ProvisionError as error:
        answer = WhoamiAnswer("unreachable", HUB, str(error))
    return judged(name, answer)


def judged(name: str, answer: WhoamiAnswer) -> TokenOwner:
    """What *answer* means for the token of the secret *name*, in words. Pure."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", answer.kind).lower()
    called = f" `{answer.name}`" if answer.name else ""
    if answer.state == "valid":
        return TokenOwner(
            name, "valid", f"{name} belongs to `{answer.owner}`" + (f" ({kind}{called})" if kind else "")
        )
    if answer.state == "invalid":
        return TokenOwner(
            name,
            "invalid",
            f"{name} is wrong or has expired: {answer.message}",
            f"make a new token on {PAGE}",
        )
    if answer.state == "other_kind":
        return TokenOwner(
            name,
            "other_kind",
            f"{name} belongs to `{answer.owner}`, and its token{called} ({kind}) reads no gated and no private repository",
            f"on {PAGE}, let it read repositories, or make a token of the kind `read`",
        )
    return TokenOwner(
        name,
        "unreachable",
        f"whom {name} belongs to is not known: {answer.message}",
        "try again when this machine reaches the hub; a run may go well all the same",
    )
