"""What an instance answers about its runs, read and believed within bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from provision_agent.contract.messages import Json, RunFound, RunPlace, StartAnswer, StatusAnswer, read_answer
from provision_agent.contract.parsing import ParseError, parse
from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_parts import PlanFormatError

from ..errors import ProtocolFaultError, ProvisionError, RefusedError, UsageError
from ..instance import Instance
from . import registry


def read_start(data: Mapping[str, object]) -> tuple[StartAnswer, RunPlace | None]:
    """The answer to `start`, and where the run is if it was taken. Raises ParseError."""
    answer = read_answer(StartAnswer, data)
    return answer, parse(RunPlace, data, "answer") if answer.is_accepted else None


def refusal_of(answer: StartAnswer, instance: Instance) -> ProvisionError:
    """The error that says why the run was not taken; commands about a run that is not known here name *instance*, too."""
    hint, run = answer.hint, answer.about.get("run", "")
    if run and not any(one.run == run and one.is_of(instance) for one in registry.all_runs()):
        hint = hint.replace(f" {run}`", f" {run} {instance.options}`")
    if answer.state == "refused":
        lines = "".join(f"\n  {line}" for line in answer.differences)
        return RefusedError(answer.message + lines, hint=hint, differences=answer.differences)
    if answer.state == "usage":
        return UsageError(answer.message, hint=hint)
    return ProvisionError(answer.message, hint=hint, cause=answer.class_)


def runs_of(data: Mapping[str, object], *, asked: str | None) -> list[RunFound]:
    """The runs in an answer to `status`; a run's id becomes part of paths here, so no other than the *asked* one counts.

    Raises:
        ParseError: it is no such answer.
    """
    runs = [parse(RunFound, run, "runs") for run in read_answer(StatusAnswer, data).runs]
    for found in runs:
        if asked is not None and found.run != asked:
            raise ParseError(f"it was asked for run `{asked}` and speaks of `{found.run}`")
    return runs


def plan_of(found: RunFound) -> Plan:
    """The plan of a run as its instance has it. Raises ProtocolFaultError when it is none."""
    plan: Json | None = found.plan
    try:
        if plan is not None:
            return Plan.from_json(plan)
    except (PlanFormatError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolFaultError(f"the plan of run `{found.run}` ({error})") from None
    raise ProtocolFaultError(f"run `{found.run}` has no plan")


def kept_back(run: str, names: Sequence[str]) -> str:
    """What to say of the secrets *names* that only the instance names: none of them was sent."""
    good = [name for name in names if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name)][:5]
    shown = ", ".join(f"`{name}`" for name in good) or "what it names"
    more = f" and {len(names) - len(good)} more" if good and len(names) > len(good) else ""
    return (
        f"the instance wants the secrets {shown}{more} for run `{run}`, which this machine did not start with them: "
        f"they are not sent; to send those of your profile, give it: `--profile NAME|PATH` with `provision attach` or "
        f"`provision audit`, or run `provision up` with it again"
    )
