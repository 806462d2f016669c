"""The profile that a command means: a name or a file, and what ComfyUI workflows need besides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from provision_agent.contract.plan import download_key

from ..convert import Converted, from_workflows, literal
from ..profile import Profile, load_profile


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
    converted = from_workflows([Path(workflow) for workflow in workflows])
    added = _beyond(profile, converted)
    text = yaml.safe_dump(
        {
            "version": 1,
            "name": profile.name,
            "extends": os.path.abspath(profile.sources[-1]),
            **literal(added),
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
            for item in converted.profile.get("downloads", [])
            if download_key(item["path"], item["url"]) not in downloads
        ],
        "repos": [repo for repo in converted.profile.get("repos", []) if repo["path"] not in repos],
    }
    return {key: items for key, items in added.items() if items}
