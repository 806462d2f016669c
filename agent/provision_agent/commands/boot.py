"""``boot``: begin a run with nobody there, from the file that `provision bundle` made and a provider's start command runs.

The secrets of its plan are taken from the environment of this process and handed on as if they had come over SSH: whatever
is started has none of them in its environment that it did not ask for. It speaks to people, in lines.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import Dict, List, MutableMapping, Tuple

from ..contract.failures import Failure
from ..contract.messages import MAX_MESSAGE_BYTES, RunPlace, StartAnswer, StartRequest, read_message
from ..contract.parsing import ParseError
from ..contract.plan import Plan
from ..contract.plan_parts import SecretRule
from ..contract.secret_values import names_of, unset, value_told, variable_of
from ..contract.verdicts import exit_code
from ..run import start

BEGUN = {
    "started": "run `{run}` has begun in `{workspace}`",
    "resumed": "run `{run}` goes on in `{workspace}`",
    "attached": "run `{run}` of the same plan is going already in `{workspace}`",
}
OTHER_PLAN = (
    "`provision stop {run}` ends it; a file that was made with `provision bundle --replace` does so by itself"
)


def boot_main(argv: List[str]) -> int:
    """``boot``: read a `StartRequest` without run and secrets on stdin; returns the exit code, 0 when the run is going."""
    try:
        request = read_message(StartRequest, sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1))
        plan = Plan.from_json(request.plan)
        secrets = _take_secrets(plan.secrets, os.environ)
        order = replace(request, run=_new_run_id(), secrets=secrets, started_unix=time.time())
        return _told(start.decided(order))
    except ParseError as error:
        _say(f"this file is broken: {error}", "make it again with `provision bundle`")
    except Failure as failure:
        _say(failure.message, failure.hint)
    return exit_code("failed")


def _take_secrets(rules: Tuple[SecretRule, ...], environ: MutableMapping[str, str]) -> Dict[str, str]:
    """The values that *environ* has of the secrets that *rules* name; it has none of them any more."""
    values: Dict[str, str] = {}
    for rule in rules:
        source = variable_of(rule, environ)
        if source is None:
            if not rule.is_default:
                _say(f"warning: {unset(rule)}")
            continue
        value, warnings = value_told(rule, source, environ[source])
        for warning in warnings:
            _say(f"warning: {warning}")
        if value is not None:
            values[rule.name] = value
    for name in [name for rule in rules for name in names_of(rule)]:
        environ.pop(name, None)
    return values


def _new_run_id() -> str:
    """As this tool's other half makes them."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + os.urandom(3).hex()


def _told(found: object) -> int:
    parts = found if isinstance(found, tuple) else (found,)
    answer = next(part for part in parts if isinstance(part, StartAnswer))
    place = next((part for part in parts if isinstance(part, RunPlace)), None)
    if place is None:
        hint = OTHER_PLAN.format(run=answer.run) if answer.case == "other_plan" else answer.hint
        _say("\n  ".join((answer.message, *answer.differences)), hint)
        return exit_code(answer.state if answer.state in ("refused", "usage") else "failed")
    begun = BEGUN[answer.state].format(run=place.run, workspace=place.workspace)
    _say(
        begun, "on your machine, `provision attach --host USER@HOST --port PORT` shows it from its first byte"
    )
    return 0


def _say(message: str, next_: str = "") -> None:
    print(f"provision: {message}", flush=True)
    if next_:
        print(f"  next: {next_}", flush=True)
