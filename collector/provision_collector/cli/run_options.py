"""Options of the commands that start runs, `up` and `fleet up`, and the plan that they shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import click
from provision_agent.contract.steps import STEP_NAMES

from .options import Option, P, R, duration, pair

if TYPE_CHECKING:
    from ..planning.prepare import Prepared


class PlanOptions(TypedDict):
    """The values of `plan_options`, which mean what `provision_collector.start` says."""

    workspace: str | None
    timeout_s: float | None
    strict: bool | None
    replace: bool
    skip: tuple[str, ...]
    only: tuple[str, ...]
    default_secrets: bool


class RunOptions(PlanOptions):
    """The values of `run_options`."""

    logs_dir: str


default_secrets_option: Option = click.option(
    "--no-default-secrets",
    "default_secrets",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Use only the secrets that the profile names, not HF_TOKEN, CIVITAI_TOKEN and GITHUB_TOKEN by themselves.",
)

locked_option: Option = click.option(
    "--locked", is_flag=True, help="Only what the profile's lock says, byte for byte (`provision lock`)."
)
offline_option: Option = click.option(
    "--offline",
    is_flag=True,
    help="Ask no outside host: work with what is on the instance, and list what is missing.",
)

_BEFORE: tuple[Option, ...] = (
    click.option("--workspace", metavar="PATH", help="The folder on the instance (/workspace)."),
    click.option(
        "--label", "labels", type=pair, multiple=True, metavar="K=V", help="Echoed in events and the outcome."
    ),
)
_LOGS: Option = click.option(
    "--logs-dir", default="logs", show_default=True, metavar="DIR", help="Where the mirrors go."
)
_AFTER: tuple[Option, ...] = (
    click.option(
        "--timeout", "timeout_s", type=duration, help="A run's deadline; else the profile's `limits.run`."
    ),
    click.option(
        "--strict/--permissive", default=None, help="Stop a run at its first critical failure, or go on."
    ),
    click.option("--replace", is_flag=True, help="Stop another plan's run first; verified files stay."),
    click.option("--skip", type=click.Choice(STEP_NAMES), multiple=True, help="Leave out a step."),
    click.option(
        "--only", type=click.Choice(STEP_NAMES), multiple=True, help="Do this step only, and the checks."
    ),
    default_secrets_option,
)


def run_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add these options; the command gets `RunOptions`, and *labels* as pairs."""
    return _with(command, *_BEFORE, _LOGS, *_AFTER)


def plan_options(command: Callable[P, R]) -> Callable[P, R]:
    """As `run_options`, for a command that watches no run: without `--logs-dir`."""
    return _with(command, *_BEFORE, *_AFTER)


def _with(command: Callable[P, R], *options: Option) -> Callable[P, R]:
    for option in reversed(options):
        command = option(command)
    return command


def prepared(
    name: str,
    variables: Mapping[str, str],
    options: PlanOptions,
    *,
    workflows: Sequence[str] = (),
    is_locked: bool = False,
    lists_files: bool = True,
) -> Prepared:
    """The profile *name* with the plan that *options* shape. Raises what `prepare` does."""
    from ..planning.prepare import prepare

    return prepare(
        name,
        overrides=variables,
        workflows=workflows,
        locked=is_locked,
        workspace=options["workspace"],
        timeout_s=options["timeout_s"],
        strict=options["strict"],
        skip=options["skip"],
        only=options["only"],
        default_secrets=options["default_secrets"],
        lists_files=lists_files,
    )
