"""Everything that a run would stand on, looked at before anything long starts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from provision_agent.contract.buckets import SignedSource
from provision_agent.contract.findings import Disk, Facts, PackageTold, Standing
from provision_agent.contract.parsing import ParseError, parse
from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_parts import SecretRule

from ..errors import ProtocolFaultError
from ..instance import Instance
from .answers import Survey
from .packages import packages_of
from .source_survey import survey
from .sources import Row, exit_code, rows_of, worst
from .token_owner import token_owners

CLOCK_OFF_S = 60.0
OLDEST_PYTHON = (3, 10)
LOW_DISK_BYTES = 10 * 10**9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `state`: ok | warning | failed; only failed ones count, by `level`."""

    name: str
    state: str
    message: str
    level: str = "optional"
    hint: str = ""


async def diagnose(
    instance: Instance, plan: Plan, secrets: Mapping[str, str], signed: Sequence[SignedSource] = ()
) -> tuple[list[Finding], int]:
    """Look at everything that a run of *plan* would stand on; an empty plan looks at the instance alone.

    Returns:
        What was found, and the exit code.

    Raises:
        ProvisionError: it cannot be reached at all, or what it says of itself cannot be understood.
    """
    began = time.monotonic()
    surveyed = await survey(plan, secrets, instance=instance, packages=True, signed=signed)
    took_s, now = time.monotonic() - began, time.time()
    assert surveyed.standing is not None
    findings = [
        Finding("ssh", "ok", f"{instance} answers, the agent runs ({took_s:.1f} s for everything)"),
        *judged_machine(plan, surveyed.standing, now_unix=now, took_s=took_s),
        *_sources(plan, surveyed),
        *_packages(surveyed.standing),
        *_environment(plan, surveyed),
        *(
            Finding("secret", "warning", f"{rule.name} is not set", hint=f"export {rule.name}=…")
            for rule in plan.secrets
            if rule.name not in secrets and (not rule.is_default or rule.name in surveyed.secrets_wanted)
        ),
    ]
    return findings, worst(each.level for each in findings if each.state == "failed")


async def hub_tokens(rules: Iterable[SecretRule], values: Mapping[str, str]) -> list[Finding]:
    """Whom the hub's tokens among *values* belong to, asked from this machine. No value goes to an instance."""
    return [
        Finding("token", "ok" if owner.is_ok else "warning", owner.message, hint=owner.hint)
        for owner in await token_owners(rules, values)
    ]


def judged_machine(plan: Plan, here: Standing, *, now_unix: float, took_s: float) -> list[Finding]:
    """Hold what an instance says of itself against what *plan* needs. Pure.

    Args:
        plan: What a run would do.
        here: The instance as it stands.
        now_unix: The time here, in seconds since 1970.
        took_s: How long the answer took: its clock may differ by that much without being wrong.

    Raises:
        ProtocolFaultError: its facts are none.
    """
    try:
        facts = parse(Facts, here.facts, "facts")
    except ParseError as misfit:
        raise ProtocolFaultError(misfit) from None
    return list(_machine(plan, here, facts, here.unix - now_unix, took_s))


def _machine(plan: Plan, here: Standing, facts: Facts, off_s: float, took_s: float) -> Iterator[Finding]:
    pythons = [python.version for python in facts.pythons]
    modern = any(_version(version) >= OLDEST_PYTHON for version in pythons)
    if plan.python is not None and not modern:
        yield Finding(
            "python", "failed", f"only Python {', '.join(pythons)} is there; today's torch wants 3.10", "critical",
            "install a newer python3, or name an environment under `python.venv`",
        )  # fmt: skip
    else:
        yield Finding("python", "ok", f"Python {', '.join(pythons)}")
    if here.can_write:
        yield Finding("workspace", "ok", f"{here.workspace} can be written")
    else:
        yield Finding(
            "workspace", "failed", f"{here.workspace} cannot be written as {facts.user}", "critical",
            "choose another folder with `--workspace`",
        )  # fmt: skip
    yield from _disks(here.disks or facts.disks)
    yield _gpu(plan, facts)
    if -CLOCK_OFF_S - took_s <= off_s <= CLOCK_OFF_S:
        yield Finding("clock", "ok", "right, within a minute")
    else:
        yield Finding(
            "clock", "failed", f"it is off by {off_s:+.0f} s: https will refuse certificates", "required",
            "on the instance: `date -u`; restart it, or set its clock",
        )  # fmt: skip
    if plan.repos and not facts.git:
        in_apt = "git" in {package.split("=")[0] for package in plan.system_packages}
        state, level = ("ok", "optional") if in_apt else ("failed", "critical")
        yield Finding(
            "git",
            state,
            "not there" + (" yet; `apt` brings it" if in_apt else ""),
            level,
            "add `git` to `apt:`",
        )


def _version(text: str) -> tuple[int, ...]:
    """The first two numbers of a version; nothing for what is none."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", text, re.ASCII)
    return tuple(int(number) for number in found.groups()) if found else ()


def _disks(disks: Iterable[Disk]) -> Iterator[Finding]:
    for disk in disks:
        free, needed = disk.free_bytes, disk.needed_bytes
        message = f"{free / 1e9:.1f} GB free on {disk.path}" + (
            f", {needed / 1e9:.1f} GB needed" if needed else ""
        )
        if needed > free:
            yield Finding(
                "disk",
                "failed",
                message,
                "critical",
                f"rent an instance with {(needed - free) / 1e9:.1f} GB more, or free as much",
            )
        elif free < LOW_DISK_BYTES:
            yield Finding(
                "disk", "warning", message, hint="models are large: rent an instance with a larger disk"
            )
        else:
            yield Finding("disk", "ok", message)


def _gpu(plan: Plan, facts: Facts) -> Finding:
    if facts.gpus:
        names = ", ".join(f"{gpu.name} ({(gpu.memory_bytes or 0) / 2**30:.0f} GiB)" for gpu in facts.gpus)
        return Finding("gpu", "ok", f"{names}; driver {facts.driver}, CUDA up to {facts.cuda}")
    layers = plan.python.layers if plan.python else ()
    wants = any(
        layer.torch is not None and layer.torch.accelerator not in ("auto", "cpu") for layer in layers
    )
    message = "no NVIDIA GPU, or its driver does not answer"
    if wants:
        return Finding(
            "gpu", "failed", message, "critical", "on the instance: `nvidia-smi`; rent another one"
        )
    return Finding("gpu", "warning", message, hint="`accelerator: auto` installs torch for the CPU here")


def _packages(here: Standing) -> Iterator[Finding]:
    rows = here.packages
    good = [row for row in rows if row.chosen]
    for row in good:
        if row.why:  # a choice was made: torch
            size = row.asked[-1].size_bytes if row.asked else None
            told = f", {size / 1e9:.2f} GB" if size else ""
            yield Finding("package", "ok", f"{row.chosen}: {row.why}{told}")
    for row in rows:
        if row not in good:
            yield _missing_package(row)
    if good:
        yield Finding("package", "ok", f"{len(good)} of {len(rows)} packages can be had from the indexes")


def _environment(plan: Plan, surveyed: Survey) -> Iterator[Finding]:
    """All packages together: what they need, or why that is not known."""
    found = packages_of(plan, surveyed)
    target = f" ({found.target})" if found.target else ""
    if found.basis == "none":
        return
    if found.count is None:
        told = surveyed.environment
        is_sure = told is not None and told.class_ is not None
        state, level = ("failed", told.level) if told is not None and is_sure else ("warning", "optional")
        hint = told.hint if told is not None else ""
        yield Finding("packages", state, f"what they take is unknown{target}: {found.message}", level, hint)
        return
    sums = f"{_gigabytes(found.fetch_bytes)} to fetch, {_gigabytes(found.unpacked_bytes)} on the disk"
    there = f", {found.present} of them there already" if found.present else ""
    yield Finding("packages", "ok", f"{found.count}{there}: {sums}{target}")
    for line in found.left_out:
        yield Finding("packages", "warning", f"a run goes without {line}")


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.2f} GB"


def _missing_package(row: PackageTold) -> Finding:
    told, hint = (row.asked[-1].message, row.asked[-1].hint) if row.asked else ("no index was asked", "")
    message = f"{row.item}: {told}"
    if row.is_certain and not row.present:
        return Finding("package", "failed", message, row.level, hint)
    return Finding("package", "warning", message, hint=hint)


def _sources(plan: Plan, surveyed: Survey) -> Iterator[Finding]:
    rows = rows_of(plan, surveyed)
    by_item: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_item.setdefault((row.kind, row.key), []).append(row)
    good = 0
    for items in by_item.values():
        if exit_code(items) == 0 and any(row.is_ok for row in items):
            good += 1
        else:
            first = items[0]
            yield Finding(
                "source",
                "failed",
                f"{first.item}: {first.state}: {first.message}",
                first.level,
                first.hint,
            )
    if good:
        yield Finding(
            "source", "ok", f"{good} of {len(by_item)} items have a good source, asked from the instance"
        )
