"""`provision doctor`: check everything that a run needs before anything long starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping

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
)
from .output import say, say_json
from .run_options import default_secrets_option


@click.command("doctor")
@click.argument("run", shell_complete=completing.runs, required=False)
@connection_options
@profile_option("Also ask this profile's sources, from the instance.")
@variables_option
@click.option("--workspace", metavar="PATH", help="The folder on the instance (/workspace).")
@default_secrets_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    run: str | None,
    connection: Connection,
    profile: str | None,
    variables: tuple[tuple[str, str], ...],
    workspace: str | None,
    default_secrets: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Look at an instance: SSH, python3, disk, GPU and driver, clock, and whether it reaches the profile's sources.

    Ends with 0, 1 (a run would fail) or 5 (a run would be incomplete). Changes nothing.
    """
    configure_logging(verbose)
    import asyncio
    import os
    from dataclasses import asdict

    from provision_agent.contract.buckets import SignedSource
    from provision_agent.contract.plan import Plan
    from provision_agent.contract.plan_parts import SecretRule
    from provision_agent.contract.source_kinds import DEFAULT_SECRETS

    from ..console import harmless
    from ..planning.doctor import Finding, diagnose, hub_tokens
    from ..planning.prepare import prepare
    from ..profile import values_of
    from ..profile.compile import DEFAULT_WORKSPACE

    run, profile = run_or_profile(run, profile)
    instance = instance_of(connection, newest_run(connection, run))
    plan = Plan("doctor", workspace=workspace or DEFAULT_WORKSPACE, workspace_fallback=workspace is None)
    secrets: Mapping[str, str] = {}
    signed: tuple[SignedSource, ...] = ()
    rules: tuple[SecretRule, ...] = DEFAULT_SECRETS if default_secrets else ()
    tokens = values_of(rules, os.environ)[0]
    if profile is not None:
        prepared = prepare(
            profile, overrides=dict(variables), workspace=workspace, default_secrets=default_secrets
        )
        plan, secrets, signed = prepared.plan, prepared.secrets, prepared.signed()
        rules, tokens = plan.secrets, dict(secrets)

    async def look() -> tuple[list[Finding], int]:
        found, code = await diagnose(instance, plan, secrets, signed)
        return [*found, *await hub_tokens(rules, tokens)], code

    findings, code = asyncio.run(look())
    if as_json:
        facts = {"host": str(instance), "exit_code": code, "findings": [asdict(each) for each in findings]}
        say_json(facts)
    else:
        for each in findings:
            say(harmless(f"{each.state:7}  {each.name:9}  {each.message}"))
            if each.state != "ok" and each.hint:
                say(harmless(f"{'':7}  {'':9}  next: {each.hint}"))
    sys.exit(code)
