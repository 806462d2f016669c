"""What a client may ask for, checked before anything is begun: the body of ``POST /api/runs`` and its plan.

A posted profile can name built-in profiles and those in the server's own folder; it never names a file here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from provision_agent.contract.buckets import Buckets
from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_parts import SecretRule
from provision_agent.contract.steps import STEP_NAMES
from provision_agent.contract.version import RUN_ID_PATTERN
from pydantic import ConfigDict, Field, JsonValue, StrictBool, StrictFloat, StrictInt

from ...errors import ProfileError, UsageError
from ...instance import Instance
from ...planning.prepare import wanted_profile
from ...profile import Profile, compile_plan, values_of
from ...profile.tree import Problem, problem_lines, read_tree
from ...profile.units import duration_s
from ...run.spec import NO_BUCKETS

_FILE = "profile.yaml"
_LINE = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[str, Field(min_length=1, max_length=256, pattern=_LINE)]
Step = Annotated[str, Field(json_schema_extra={"enum": [*STEP_NAMES]})]
"""`prepare` refuses any other."""
Duration = Annotated[
    StrictFloat | Annotated[str, Field(max_length=64)],
    Field(description="seconds, or `30s 15m 1h`", examples=[900, "15m"], union_mode="left_to_right"),
]
Secrets = Annotated[
    dict[Name, Annotated[str, Field(max_length=8192)]] | list[Name],
    Field(description="values by name (never shown again), or names of what the server holds (`--secret`)"),
]


_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """An instance, what it must have, and how."""

    __pydantic_config__ = _STRICT

    host: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9@._:%\[\]-]{1,300}$", examples=["root@203.0.113.7:14842"])
    ]
    port: Annotated[StrictInt, Field(ge=1, le=65535)] | None = None
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")] | None = None
    key: Annotated[
        Name | None, Field(description="a private key in the server's folder of keys (`--keys`)")
    ] = None
    instance_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")] | None = None
    profile: (
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", examples=["comfyui"])] | None
    ) = None
    profile_yaml: Annotated[str, Field(max_length=1 << 20)] | None = None
    workflow: Annotated[
        dict[str, JsonValue] | None, Field(description="a ComfyUI workflow; what it needs is added")
    ] = None
    set: dict[Name, Annotated[str, Field(max_length=4096)]] = field(default_factory=dict)
    run_id: Annotated[str, Field(pattern=f"^{RUN_ID_PATTERN}$")] | None = None
    workspace: Name | None = None
    timeout: Duration | None = None
    boot_grace: Duration | None = None
    contact_timeout: Duration | None = None
    strict: StrictBool | None = None
    skip: Annotated[list[Step], Field(max_length=len(STEP_NAMES))] = field(default_factory=list)
    only: Annotated[list[Step], Field(max_length=len(STEP_NAMES))] = field(default_factory=list)
    replace: StrictBool = False
    labels: Annotated[dict[Name, Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = field(
        default_factory=dict
    )
    secrets: Secrets | None = None
    watch: Annotated[
        Literal["until_released"] | None,
        Field(description="after the run ask the instance how it is, until it is released or gone"),
    ] = None

    def __post_init__(self) -> None:
        if (self.profile is None) == (self.profile_yaml is None):
            raise ValueError("give `profile` or `profile_yaml`, one of them")

    @property
    def hash(self) -> str:
        """Equal for equal requests; the secrets' values have no part in it."""
        data = {name: value for name, value in vars(self).items() if name not in ("secrets", "watch")}
        data.update({"watch": self.watch} if self.watch is not None else {})  # as it was before there was one
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class SecretsRequest:
    """Values for a run that says `secrets_needed`."""

    __pydantic_config__ = _STRICT

    secrets: Annotated[dict[Name, Annotated[str, Field(max_length=8192)]], Field(min_length=1)]


@dataclass(frozen=True)
class Accepted:
    """A request that can be carried out."""

    instance: Instance
    plan: Plan
    secrets: dict[str, str]
    """By the name that the profile uses; those of its buckets too, which no instance gets."""
    warnings: tuple[str, ...] = ()
    buckets: Buckets = NO_BUCKETS


@dataclass(frozen=True)
class Planned:
    """What a request's profile says."""

    plan: Plan
    warnings: tuple[str, ...] = ()
    buckets: Buckets = NO_BUCKETS


def rules_of(plan: Plan, buckets: Buckets) -> tuple[SecretRule, ...]:
    """The secrets that a run has a use for, on either side."""
    return tuple(dict.fromkeys((*plan.secrets, *buckets.secrets)))


def instance_of(request: RunRequest, keys: Path) -> Instance:
    """Where the request wants its run; *keys* is the only folder of which it may name a key.

    Raises:
        UsageError: it is no address, or the key is none of that folder's.
    """
    return Instance.parse(
        request.host,
        port=request.port,
        user=request.user,
        key=_key(request.key, keys),
        instance_id=request.instance_id,
        boot_grace_s=seconds_of("boot_grace", request.boot_grace),
        contact_timeout_s=seconds_of("contact_timeout", request.contact_timeout),
    )


def planned(request: RunRequest, *, profiles: Path | None, scratch: Path) -> Planned:
    """Make a plan of *request*; *scratch* is a folder of the server's own. May take long.

    Raises:
        ProfileError: every problem of the profile. UsageError: the request cannot mean anything.
    """
    profile, unresolved = _with_workflow(request, _profile(request, profiles), scratch)
    plan = compile_plan(
        profile,
        workspace=request.workspace,
        timeout_s=seconds_of("timeout", request.timeout),
        strict=request.strict,
        skip=request.skip,
        only=request.only,
    )
    return Planned(plan, tuple(unresolved), profile.buckets)


def accepted_of(request: RunRequest, instance: Instance, plan: Planned, held: Mapping[str, str]) -> Accepted:
    """Everything together; *held* are the secrets that this server has of its own.

    Raises:
        UsageError: a secret that the profile does not want, or the server does not hold.
    """
    secrets = _secrets(request.secrets, rules_of(plan.plan, plan.buckets), held)
    return Accepted(instance, plan.plan, secrets, plan.warnings, plan.buckets)


def _key(asked: str | None, keys: Path) -> str | None:
    """The path of the key *asked*. No other path is looked at, so nobody learns what lies there."""
    if asked is None:
        return None
    path = os.path.normpath(keys / asked)
    if "\0" in asked or not path.startswith(f"{keys}{os.sep}"):
        raise UsageError(
            "`key` names no key of this server",
            hint="give the name of a file in its folder of keys: `provision serve --keys DIR`, else `keys` in its state directory",
        )
    if not os.path.isfile(path):
        raise UsageError(
            "this server's folder of keys has no such `key`",
            hint="put the private key there: `provision serve --keys DIR`, else `keys` in its state directory",
        )
    return path


def _secrets(
    asked: dict[str, str] | list[str] | None, rules: Sequence[SecretRule], held: Mapping[str, str]
) -> dict[str, str]:
    if isinstance(asked, dict):
        known = {name for rule in rules for name in (rule.name, *rule.aliases)}
        for name in asked:
            if name not in known:
                raise UsageError(f"the profile wants no secret `{name}`", hint="declare it under `secrets:`")
        return {**_chosen(rules, held), **_chosen(rules, asked)}
    for name in asked or ():
        if name not in held:
            raise UsageError(
                f"this server holds no secret `{name}`",
                hint="start it with `--secret NAME`, or send the value",
            )
    return _chosen(rules, held if asked is None else {name: held[name] for name in asked})


def _chosen(rules: Sequence[SecretRule], values: Mapping[str, str]) -> dict[str, str]:
    return values_of(rules, values)[0]


def _profile(request: RunRequest, profiles: Path | None) -> Profile:
    if request.profile is not None:
        own = profiles / f"{request.profile}.yaml" if profiles is not None else None
        if own is not None and own.is_file():
            return Profile.from_file(own, overrides=request.set)
        return Profile.named(request.profile, overrides=request.set)
    text = request.profile_yaml or ""
    _check_extends(text)
    return Profile.from_text(text, name=_FILE, overrides=request.set)


def _with_workflow(request: RunRequest, profile: Profile, scratch: Path) -> tuple[Profile, list[str]]:
    """*profile* and what the workflow needs besides; what of it nobody knows is told."""
    if request.workflow is None:
        return profile, []
    with TemporaryDirectory(dir=scratch) as name:
        workflow, own = Path(name, "workflow.json"), Path(profile.sources[-1])
        workflow.write_text(json.dumps(request.workflow))
        if request.profile_yaml is not None:
            own = Path(name, _FILE)
            own.write_text(request.profile_yaml)
        return wanted_profile(str(own), overrides=request.set, workflows=[str(workflow)])


def _check_extends(text: str) -> None:
    """A posted text may not make the server read a file."""
    unread: list[Problem] = []
    tree = read_tree(text, _FILE, unread)
    extends = tree.get("extends") if tree is not None else None
    if extends is None:
        return
    names = extends.items() if isinstance(extends.value, list) else [extends]
    problems = [
        Problem(node.mark, "`extends` takes names of built-in profiles here, no paths")
        for node in names
        if isinstance(node.value, str) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", node.value)
    ]
    if problems:
        raise ProfileError(problem_lines(problems, _FILE))


def seconds_of(name: str, value: float | str | None) -> float | None:
    """A duration that a client sent, in seconds; *name* is its field. Raises UsageError: it is none."""
    if value is None:
        return None
    try:
        return duration_s(value)
    except ValueError as error:
        raise UsageError(f"`{name}`: {error}", hint="give a duration such as `15m`") from None
