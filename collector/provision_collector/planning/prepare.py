"""Everything that a command needs of a profile: it is loaded, compiled, locked and asked about here, once.

Every command that takes a profile starts with a `Prepared`, so that all mean the same plan: `up` and `fleet up`, `plan`,
`lock`, `check`, `doctor`, `audit` and `verify`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from provision_agent.contract.buckets import Buckets, SignedSource
from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_parts import download_key

from ..files import Listing, UploadSource, refuse_missing, sources_of
from ..profile import Profile, compile_plan, load_profile, secret_values, values_of
from ..profile.secrets import origin_of
from .answers import Survey
from .lock import apply_lock, lock_path, read_lock

if TYPE_CHECKING:
    from provision_agent.contract.environment_told import EnvironmentTarget

    from ..convert import Converted
    from ..instance import Instance

ASKING_S = 3600.0
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Prepared:
    """A profile as a command wants it, and what goes with it."""

    profile: Profile
    plan: Plan
    secrets: Mapping[str, str]
    """Values by name, as far as this process's environment has them."""
    taken_from: Mapping[str, str]
    """What the values of default ones are taken from: a variable, or the file of `hf auth login`."""
    warnings: tuple[str, ...]
    """Secrets that are not set, or not usable."""
    unresolved: tuple[str, ...]
    """What the workflows need and nobody knows a source for."""
    uploads: tuple[UploadSource, ...] = ()
    """Where the plan's uploads lie on this machine."""
    listings: tuple[Listing, ...] = ()
    """What they are made of, where that was asked."""
    lasting: tuple[str, ...] = ()
    """Those of the warnings that are of the profile and its lock, and not of this process's environment."""

    def ask(
        self,
        *,
        instance: Instance | None = None,
        packages: bool = False,
        measure: bool = False,
        pin: bool = False,
        target: EnvironmentTarget | None = None,
    ) -> Survey:
        """Ask every source of the plan; the arguments are those of `survey`.

        Raises:
            ProvisionError: the instance cannot be asked.
        """
        from .source_survey import (
            survey,
        )  # with it comes asyncssh, which a command that asks nobody does without

        asked = survey(
            self.plan,
            self.secrets,
            instance=instance,
            packages=packages,
            measure=measure,
            pin=pin,
            target=target,
            signed=self.signed(),
        )
        return asyncio.run(asked)

    @property
    def buckets(self) -> Buckets:
        """Its buckets, with what the plan wants of them."""
        return self.profile.buckets.of_plan(self.plan)

    @property
    def bucket_values(self) -> dict[str, str]:
        """The values of the secrets that its buckets name, as far as this process's environment has them."""
        return values_of(self.profile.buckets.secrets, os.environ)[0]

    def signed(self) -> tuple[SignedSource, ...]:
        """Addresses of what the plan wants of buckets, for as long as it takes to ask. Raises as `sign`."""
        from ..files.buckets import sign

        return sign(self.buckets, os.environ, lives_s=ASKING_S)


def prepare(
    name_or_path: str,
    *,
    overrides: Mapping[str, str] = _NOTHING,
    workflows: Sequence[str] = (),
    locked: bool = False,
    workspace: str | None = None,
    timeout_s: float | None = None,
    strict: bool | None = None,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    default_secrets: bool = True,
    lists_files: bool = False,
) -> Prepared:
    """Load a profile, compile it, and look its secrets up.

    Args:
        name_or_path: A built-in profile's name, or a file.
        overrides: Values for its variables (``--set``).
        workflows: Files of ComfyUI workflows whose models and nodes it gets besides.
        locked: Take what its lock says, byte for byte.
        workspace: The folder on the instance; else the profile's.
        timeout_s: What the run may take, in seconds; else the profile's `limits.run`.
        strict: Stop at the first critical failure; else as the profile says.
        skip: Steps to leave out.
        only: The steps to run, and the checks; empty means all.
        default_secrets: Do the built-in rules for secrets stand?
        lists_files: Look at the uploads, too.

    Raises:
        ProfileError: the profile or its lock is wrong, or they do not fit each other, or an upload cannot be sent.
        UsageError: a workflow is none, an unknown step, or a workspace that cannot be one.
    """
    profile, unresolved = wanted_profile(name_or_path, overrides=overrides, workflows=workflows)
    profile = profile if default_secrets else profile.without_default_secrets()
    plan = compile_plan(
        profile, workspace=workspace, timeout_s=timeout_s, strict=strict, skip=skip, only=only
    )
    secrets, warnings = secret_values(profile, os.environ)
    sent = {rule.name for rule in plan.secrets}
    warnings += values_of((rule for rule in profile.buckets.secrets if rule.name not in sent), os.environ)[1]
    lasting: list[str] = []
    if locked:
        path = lock_path(name_or_path)
        lock = read_lock(path)
        plan = apply_lock(plan, lock, where=path)
        lasting += lock.warnings
    taken_from = {
        rule.name: where
        for rule in plan.secrets
        if rule.is_default and (where := origin_of(rule, os.environ)) is not None
    }
    uploads = sources_of(profile, plan)
    listings = refuse_missing(uploads) if lists_files else ()
    lasting += [each.failure.message for each in listings if each.failure is not None]
    told = (*warnings, *lasting)
    return Prepared(
        profile, plan, secrets, taken_from, told, tuple(unresolved), uploads, listings, tuple(lasting)
    )


def wanted_profile(
    name_or_path: str, *, overrides: Mapping[str, str], workflows: Sequence[str] = ()
) -> tuple[Profile, list[str]]:
    """Load a profile and add what *workflows* need that it does not have.

    Returns:
        The profile, and what of the workflows could not be resolved, one sentence each.

    Raises:
        ProfileError: the profile is wrong. UsageError: a workflow is none.
    """
    profile = load_profile(name_or_path, overrides=overrides)
    if not workflows:
        return profile, []
    from ..convert import from_workflows, literal

    converted = from_workflows([Path(workflow) for workflow in workflows])
    added = _beyond(profile, converted)
    text = yaml.safe_dump(
        {
            "version": 1,
            "name": profile.name,
            "extends": os.path.abspath(profile.sources[-1]),
            **{key: literal(items) for key, items in added.items()},
        },
        sort_keys=False,
    )
    return Profile.from_text(text, name=str(workflows[0]), overrides=overrides), converted.unresolved


def _beyond(profile: Profile, converted: Converted) -> dict[str, object]:
    """What the profile has already is better known there: with hashes, mirrors, levels."""
    downloads = {download_key(item.path, item.url) for item in profile.document.downloads}
    repos = {repo.path for repo in profile.document.repos}
    added = {
        "downloads": [
            item
            for item in converted.listed("downloads")
            if download_key(str(item["path"]), str(item["url"])) not in downloads
        ],
        "repos": [repo for repo in converted.listed("repos") if repo["path"] not in repos],
    }
    return {key: items for key, items in added.items() if items}
