"""`provision verify`: only the checks of a profile on an instance, now."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from . import completing
from .last_word import LAST_WORD
from .options import (
    Connection,
    configure_logging,
    connection_options,
    instance_of,
    newest_run,
    profile_option,
    run_or_profile,
    variables_option,
    words_there,
    workspace_of,
)
from .output import say, say_json, tell

if TYPE_CHECKING:
    from provision_agent.contract.messages import AuditItem, CheckFailed

    from ..instance import Instance
    from ..planning.audit import PlanThere
    from ..run.outcome import Outcome


@click.command("verify")
@click.argument("run", shell_complete=completing.runs, required=False)
@connection_options
@profile_option("Whose checks; else those of the run.")
@variables_option
@click.option("--workspace", metavar="PATH", help="The folder on the instance.")
@click.option(
    "--quick", is_flag=True, help="Believe what was verified and not touched since, instead of reading it."
)
@click.option("--json", "as_json", is_flag=True, help="Events and the outcome as JSON Lines on stdout.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    run: str | None,
    connection: Connection,
    profile: str | None,
    variables: tuple[tuple[str, str], ...],
    workspace: str | None,
    quick: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Run the checks of RUN, of the current run of --host, or of --profile, and see that all that was made is as it was.

    Without any of them it is the newest run that is known here. Files, members of archives, checkouts and packages are read. Ends with 0, 1 (critical) or 5 (required).
    """
    configure_logging(verbose)
    import asyncio
    import os

    from provision_agent.contract.parsing import to_json

    from ..console.text import harmless
    from ..planning.audit import verify
    from ..planning.sources import worst
    from ..profile import values_of

    run, profile = run_or_profile(run, profile)
    run = newest_run(connection, run)
    instance = instance_of(connection, run)
    there = plan_for(instance, run, profile, dict(variables), workspace)
    plan = there.plan
    secrets, _ = values_of(plan.secrets, os.environ)
    answer, found = asyncio.run(verify(instance, plan, secrets, is_quick=quick, signed=there.signed()))
    wrong = [item for item in found.wrong if item.state != "unknown"]
    code = worst([*(check.level for check in answer.failed), *(item.level for item in wrong)])
    levels = {check.name: check.level for check in plan.checks}
    events: list[dict[str, object]] = [
        {"event": "check_passed", "item": name, "level": levels[name]} for name in answer.passed
    ]
    events += [{"event": "check_failed", **to_json(_now(check))} for check in answer.failed]
    events += [{"event": "check_skipped", **to_json(check)} for check in answer.skipped]
    again = words_there(connection, instance, run, workspace) + plan_words(profile, variables)
    mend = f"`provision audit {again} --repair` brings it again as it was"
    events += [_item_failed(item, instance, mend) for item in wrong]
    if as_json:
        for event in events:
            say_json(event)
        LAST_WORD.say(_outcome(run, str(instance), events, code))
    else:
        _print(events, len(plan.checks))
        right = len(found.items) - len(found.wrong)
        tell(f"{right} of {len(found.items)} items are as they should be")
    for item in found.wrong:
        if item.state == "unknown":
            message = harmless(f"{item.item}: {item.message}")
            tell(f"provision: warning: it cannot be told what should be there: {message}")
    sys.exit(code)


def plan_words(profile: str | None, variables: tuple[tuple[str, str], ...]) -> str:
    """The options that name the plan, with a space before them, for a command that is advised."""
    words = ["--profile", profile] if profile is not None else []
    words += [word for name, value in variables for word in ("--set", f"{name}={value}")]
    return f" {shlex.join(words)}" if words else ""


def _item_failed(item: AuditItem, instance: Instance, mend: str) -> dict[str, object]:
    """What differs, as the event that a run would have for it; *mend* says what to type."""
    from ..planning.audit import CLASSES

    kind = {"member": "download"}.get(item.kind, item.kind)
    class_, case, about = CLASSES.get(item.state, "missing"), "not_as_made", {"host": str(instance)}
    return {
        "event": f"{kind}_failed",
        "item": item.item,
        "key": item.key or item.item,
        "level": item.level,
        "class": class_,
        "message": item.message,
        "hint": mend,
        "case": case,
        "about": about,
        "retriable": True,
    }


def _now(check: CheckFailed) -> CheckFailed:
    """*check* with the advice of a time when no run is going: what a run had made may be gone."""
    return replace(check, case="gone_since") if check.class_ == "missing" and check.case is None else check


def plan_for(
    instance: Instance,
    run: str | None,
    profile: str | None,
    variables: dict[str, str],
    workspace: str | None,
    *,
    locked: bool = False,
) -> PlanThere:
    """The plan of *profile* (*locked*: as its lock has it), or of a run: the one that was named, or the instance's current one."""
    import asyncio

    from ..planning.audit import PlanThere, plan_there
    from ..planning.prepare import prepare
    from ..run.spec import Known

    folder = workspace or workspace_of(run, instance)
    if profile is not None:
        wanted = prepare(profile, overrides=variables, workspace=folder, locked=locked)
        return PlanThere(run or "", wanted.plan, Known.of(wanted.plan, wanted.profile.buckets))
    return asyncio.run(plan_there(instance, run=run, workspace=folder))


def _outcome(run: str | None, host: str, events: list[dict[str, object]], code: int) -> Outcome:
    from provision_agent.contract.events import EVENTS, Event
    from provision_agent.contract.parsing import parse
    from provision_agent.contract.status import RunState

    from ..run.outcome import outcome_of

    state = RunState(run or "")
    for number, event in enumerate(events, start=1):  # of no run: they have no time and stand in no file
        name = str(event["event"])
        state.fold(Event(name, number, "", run or "", parse(EVENTS[name].body, event, name), event))
    verdict = {0: "complete", 1: "failed", 5: "incomplete"}[code]
    return outcome_of(
        state, host=host, verdict=verdict, exit_code=code, labels={}, logs={}, gaps=[], reconnects=0
    )


def _print(events: list[dict[str, object]], count: int) -> None:
    from ..console.text import harmless

    for event in events:
        if event["event"] == "check_passed":
            say(harmless(f"ok      {event['level']:8}  {event['item']}"))
        elif event["event"] == "check_skipped":
            say(harmless(f"skipped {event['level']:8}  {event['item']}: {event['reason']}"))
        else:
            say(harmless(f"FAILED  {event['level']:8}  {event['item']}: {event['message']}"))
            say(harmless(f"        {'':8}  next: {event['hint']}"))
    if not count:
        tell("the plan has no checks")
