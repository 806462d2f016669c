"""`provision audit`: how an instance differs from a profile or its lock; --repair mends only that."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from . import completing
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
)
from .output import say, say_json, tell
from .verify import plan_for, plan_words

if TYPE_CHECKING:
    from provision_agent.contract.buckets import Buckets
    from provision_agent.contract.plan import Plan

    from ..instance import Instance
    from ..planning.audit import Audit


@click.command("audit")
@click.argument("run", shell_complete=completing.runs, required=False)
@connection_options
@profile_option("What should be there; else the plan of the run.")
@variables_option
@click.option("--locked", is_flag=True, help="Compare with the profile's lock.")
@click.option("--workspace", metavar="PATH", help="The folder on the instance.")
@click.option(
    "--quick", is_flag=True, help="Believe what was verified and not touched since; hash only the rest."
)
@click.option("--repair", is_flag=True, help="Bring again what is wrong, and nothing else; then look again.")
@click.option(
    "--logs-dir", default="logs", show_default=True, metavar="DIR", help="Where the mirrors of a repair go."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; with --repair after the run's events."
)
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    run: str | None,
    connection: Connection,
    profile: str | None,
    variables: tuple[tuple[str, str], ...],
    locked: bool,
    workspace: str | None,
    quick: bool,
    repair: bool,
    logs_dir: str,
    as_json: bool,
    verbose: bool,
) -> None:
    """Compare an instance with what it should hold: missing, extra, wrong size, wrong hash, wrong commit.

    RUN may be left out: without --repair it is then the newest run that is known here. Everything whose hash is known is
    read and hashed. Ends with 0, 1 (something critical differs) or 5 (required).
    """
    configure_logging(verbose)
    import os

    from ..errors import UsageError
    from ..planning.audit import audit, mending
    from ..profile import values_of

    run, profile = run_or_profile(run, profile)
    run = run if repair else newest_run(connection, run)
    if locked and profile is None:
        raise UsageError("`--locked` needs the profile whose lock it means", hint="give `--profile`")
    instance = instance_of(connection, run)
    there = plan_for(instance, run, profile, dict(variables), workspace, locked=locked)
    plan = there.plan
    if there.kept_back:
        tell(f"provision: warning: {there.kept_back}")
    secrets, _ = values_of(plan.secrets, os.environ)
    signed = there.signed()
    found = asyncio.run(audit(instance, plan, secrets, is_quick=quick, distrust=repair, signed=signed))
    work = mending(plan, found) if repair else None
    if work is not None:
        held = {**there.bucket_values(), **secrets}
        code = _mend(instance, work, held, there.buckets, logs_dir, as_json=as_json, verbose=verbose)
        if code not in (0, 1, 5):
            sys.exit(code)
        found = asyncio.run(audit(instance, plan, secrets, is_quick=True, signed=signed))
    if as_json:
        say_json({"host": str(instance), **found.to_json()})
    else:
        again = words_there(connection, instance, run, workspace) + plan_words(profile, variables)
        again += " --locked" if locked else ""
        _print(found, mend="" if work is not None else f"provision audit {again} --repair")
    sys.exit(found.exit_code)


def _mend(
    instance: Instance,
    plan: Plan,
    secrets: dict[str, str],
    buckets: Buckets,
    logs_dir: str,
    *,
    as_json: bool,
    verbose: bool,
) -> int:
    from ..planning.audit import REPAIR
    from ..pool.begin import start
    from .watch import mode_for, watch

    return watch(
        lambda: start(
            instance, plan, secrets=secrets, buckets=buckets, labels={REPAIR: "audit"}, logs_dir=logs_dir
        ),
        host=str(instance),
        mode=mode_for(json=as_json, quiet=False, verbose=verbose),
        stop_on_exit=False,
    )


def _print(found: Audit, *, mend: str) -> None:
    from ..console import harmless

    for item in found.wrong:
        say(harmless(f"{item.state:13}  {item.level:8}  {item.item}: {item.message}"))
    for path in found.extra:
        say(harmless(f"{'extra':13}  {'':8}  {path}"))
    right = len(found.items) - len(found.wrong)
    say(f"{right} of {len(found.items)} items are as they should be in {found.workspace}", end="")
    say(f", {len(found.extra)} extra" if found.extra else "")
    if found.wrong and mend:
        tell(f"  next: `{mend}` brings them again")
