"""``provision up``: push the agent, run a profile on an instance, mirror its logs to the end."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import click
from provision_agent.contract.steps import STEP_NAMES

from .options import (
    configure_logging,
    connection_options,
    duration,
    gone_check_option,
    instance_of,
    pair,
    variables_option,
    workflow_option,
)


@click.command("up")
@connection_options
@click.option("--profile", required=True, metavar="NAME|PATH", help="What the instance must have.")
@variables_option
@workflow_option
@click.option(
    "--locked", is_flag=True, help="Only what the profile's lock says, byte for byte (`provision lock`)."
)
@click.option("--workspace", metavar="PATH", help="The folder on the instance (/workspace).")
@click.option("--run-id", metavar="ID", help="Name the run; generated when left out.")
@click.option(
    "--label", "labels", type=pair, multiple=True, metavar="K=V", help="Echoed in events and the outcome."
)
@click.option("--logs-dir", default="logs", show_default=True, metavar="DIR", help="Where the mirrors go.")
@click.option(
    "--timeout", "timeout_s", type=duration, help="The run's deadline; else the profile's `limits.run`."
)
@click.option("--strict/--permissive", default=None, help="Stop at the first critical failure, or go on.")
@click.option("--replace", is_flag=True, help="Stop another plan's run first; verified files stay.")
@click.option(
    "--kill-holders",
    is_flag=True,
    help="End the processes on the instance that keep a broken environment from being deleted.",
)
@click.option("--skip", type=click.Choice(STEP_NAMES), multiple=True, help="Leave out a step.")
@click.option(
    "--only", type=click.Choice(STEP_NAMES), multiple=True, help="Do this step only, and the checks."
)
@click.option(
    "--forward", is_flag=True, help="Bring the services' ports to this machine once usable, until Ctrl-C."
)
@gone_check_option
@click.option("--detach", is_flag=True, help="Print the run id and leave, once the instance has the run.")
@click.option("--stop-on-exit", is_flag=True, help="Ctrl-C stops the run on the instance, too.")
@click.option("--json", "as_json", is_flag=True, help="Events and the outcome as JSON Lines on stdout.")
@click.option("--quiet", "-q", is_flag=True, help="Only what went wrong.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    connection: dict[str, Any],
    profile: str,
    variables: tuple[tuple[str, str], ...],
    labels: tuple[tuple[str, str], ...],
    forward: bool,
    gone_check: str | None,
    detach: bool,
    stop_on_exit: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Push the agent to an instance, run a profile there, mirror its logs, end with the verdict.

    Ctrl-C leaves the run going: `provision attach` comes back to it.
    """
    configure_logging(verbose)
    if forward and detach:
        raise click.UsageError("`--detach` leaves and `--forward` stays: give one of them")
    from ..errors import ProvisionError
    from ..pool import gone
    from .watch import early_outcome, mode_for, print_outcome, watch

    asked = gone.gone_check(gone_check)
    try:
        instance, begin = _prepared(connection, profile, dict(variables), dict(labels), options, quiet=quiet)
    except ProvisionError as error:
        if as_json:
            print_outcome(early_outcome(error, host=connection["host"] or "", labels=dict(labels)))
        raise
    if detach:
        sys.exit(asyncio.run(_detach(begin, as_json=as_json)))
    mode = mode_for(json=as_json, quiet=quiet, verbose=verbose)
    sys.exit(
        watch(
            begin,
            host=str(instance),
            mode=mode,
            stop_on_exit=stop_on_exit,
            gone_check=asked,
            forwards_ports=forward,
        )
    )


def _prepared(
    connection: dict[str, Any],
    profile_name: str,
    variables: dict[str, str],
    labels: dict[str, str],
    options: dict[str, Any],
    *,
    quiet: bool,
) -> Any:
    import os

    from ..planning.lock import apply_lock, lock_path, read_lock
    from ..planning.prepare import wanted_profile
    from ..profile import compile_plan, secret_values
    from ..run.start import start

    instance = instance_of(connection)
    workflows, is_locked = options.pop("workflows"), options.pop("locked")
    profile, unresolved = wanted_profile(profile_name, overrides=variables, workflows=workflows)
    secrets, warnings = secret_values(profile, os.environ)
    if not quiet:
        for warning in (*warnings, *unresolved):
            print(f"provision: warning: {warning}", file=sys.stderr)
    if not is_locked:
        return instance, lambda: start(instance, profile, secrets=secrets, labels=labels, **options)
    path = lock_path(profile_name)
    shaping = {name: options.pop(name) for name in ("workspace", "timeout_s", "strict", "skip", "only")}
    plan = apply_lock(compile_plan(profile, **shaping), read_lock(path), where=path)
    return instance, lambda: start(instance, plan, secrets=secrets, labels=labels, **options)


async def _detach(begin: Any, *, as_json: bool) -> int:
    from .watch import print_outcome, say_errors

    run = await begin()
    await run.started()
    if run.is_started:
        await run.leave()
        print(json.dumps({"run": run.id}) if as_json else run.id)
        return 0
    outcome = await run.outcome()
    say_errors(outcome)
    if as_json:
        print_outcome(outcome)
    return int(outcome["exit_code"])
