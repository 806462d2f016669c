"""Run a hook: a command that something failed or ended, with facts and only its own secrets in its environment."""

from __future__ import annotations

from typing import Dict, Mapping, NamedTuple

from ..contract.failures import Failure
from ..contract.plan_jobs import Hook
from ..host import process

FAILED = ("failed", "timeout")
"""The verdicts after which `on_failure` is run."""
_SAID_CHARS = 1000


class HookEnd(NamedTuple):
    """What became of a hook."""

    said: str
    """For people."""
    is_done: bool
    """It ended with status 0."""


def facts_of(kind: str, run_id: str, reason: str) -> Dict[str, str]:
    """What a hook is told in its environment. By its key it knows a repetition.

    Args:
        kind: ``on_failure`` or ``lifetime``.
        run_id: The run whose profile has it.
        reason: The verdict, or ``idle`` or ``max``.
    """
    return {
        "PROVISION_HOOK": kind,
        "PROVISION_KEY": key_of(kind, run_id),
        "PROVISION_REASON": reason,
        "PROVISION_RUN": run_id,
    }


def key_of(kind: str, run_id: str) -> str:
    """The key of a hook: the same, however often it is run."""
    return f"{run_id}:{kind}"


def run_hook(hook: Hook, facts: Mapping[str, str], secrets: Mapping[str, str], directory: str) -> HookEnd:
    """Run *hook* to its end, or to its timeout.

    Args:
        facts: Variables that it gets, see `facts_of`.
        secrets: Values by name; it gets those that it names.
        directory: Where it runs.
    """
    environment: Dict[str, str] = {**process.child_environment(), **facts}
    for name in secrets:
        environment.pop(name, None)
    environment.update({name: secrets[name] for name in hook.secrets if name in secrets})
    missing = [name for name in hook.secrets if name not in secrets]
    without = f" (without {', '.join(missing)}, which nobody has given)" if missing else ""
    try:
        finished = process.run(
            hook.run, timeout_s=hook.timeout_s, directory=directory, environment=environment
        )
    except Failure as failure:
        return HookEnd(f"{failure.message}{without}", False)
    said = " | ".join(finished.tail[-3:])[:_SAID_CHARS]
    return HookEnd(f"it ended with {finished.status}{without}: {said}".rstrip(": "), finished.status == 0)
