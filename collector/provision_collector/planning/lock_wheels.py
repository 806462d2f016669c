"""The wheels of a lock: which ones, for which machine, and whether a profile still asks for the same. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from provision_agent.contract.environment_told import EnvironmentTold
from provision_agent.contract.plan import Layer, Plan
from provision_agent.contract.plan_packages import LockedEnvironment, LockedWheel
from pydantic import BaseModel, ConfigDict, Field

SHA256 = "^[0-9a-f]{64}$"


class LockPart(BaseModel):
    """A part of a lock's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Wheel(LockPart):
    """One wheel: what is fetched, byte for byte. `unpacked`: what it takes on a disk, in bytes, as far as anybody told."""

    name: str
    version: str
    url: str = Field(pattern="^https?://")
    size: int | None = Field(default=None, ge=0)
    sha256: str = Field(pattern=SHA256)
    unpacked: int | None = Field(default=None, ge=0)


class WheelSet(LockPart):
    """All wheels of an environment, and the machine that they were chosen for."""

    python: str
    platform: str
    accelerator: str
    """`none` where no layer asks for torch."""
    asked: tuple[str, ...]
    """What the profile asked for, one word per thing: where that differs, the lock does not fit any more."""
    wheels: tuple[Wheel, ...]

    @property
    def versions(self) -> tuple[str, ...]:
        """``name==version`` of each, without the part after ``+``, which is the card's matter."""
        return tuple(f"{wheel.name}=={wheel.version.partition('+')[0]}" for wheel in self.wheels)

    def in_plan(self) -> LockedEnvironment:
        """As the agent obeys it."""
        return LockedEnvironment(
            python=self.python,
            platform=self.platform,
            accelerator=self.accelerator,
            wheels=tuple(
                LockedWheel(each.name, each.version, each.url, each.sha256, each.size, each.unpacked)
                for each in self.wheels
            ),
        )


def wheel_set(plan: Plan, told: EnvironmentTold | None) -> tuple[WheelSet | None, list[tuple[str, str]]]:
    """What a lock says of the packages that were chosen.

    Args:
        plan: What asks for them.
        told: What was chosen; None: nobody asked.

    Returns:
        The wheels, None where they are not known; and what cannot be pinned of them, with the reason.
    """
    if told is None or plan.python is None:
        return None, []
    if told.basis != "resolved":
        return None, [("packages", told.message)]
    lacking = [
        (pin, "its index tells no address and sha256 that another machine could use") for pin in told.unpinned
    ]
    wheels = tuple(
        Wheel(
            name=each.name,
            version=each.version,
            url=each.url,
            size=each.size_bytes,
            sha256=each.sha256,
            unpacked=each.unpacked_bytes,
        )
        for each in told.wheels
    )
    return WheelSet(
        python=told.python,
        platform=told.platform,
        accelerator=told.accelerator,
        asked=tuple(asked_for(plan)),
        wheels=wheels,
    ), lacking


def asked_for(plan: Plan) -> Iterator[str]:
    """What decides which packages *plan* gets, one word per thing."""
    python = plan.python
    if python is None:
        return
    for layer in python.layers:
        yield from _of_layer(layer)
    yield from (f"index {index.url}" for index in python.indexes)
    yield from (f"{repo.path}/{repo.requirements}" for repo in plan.repos if repo.install is not None)


def _of_layer(layer: Layer) -> Iterator[str]:
    if layer.torch is not None:
        torch = layer.torch
        of = f" from {torch.index}" if torch.index else ""
        yield f"torch {', '.join(torch.versions) or 'newest'}{of}"
        yield from (f"with torch: {extra}" for extra in torch.extras)
        yield from (f"wheels {place}" for place in torch.find_links)
    elif layer.requirements is not None:
        yield f"requirements {layer.requirements}"
    else:
        options = " ".join(entry for entry in layer.packages if entry.startswith("-"))
        for entry in layer.packages:
            if not entry.startswith("-"):
                yield f"{options} {entry}".strip()
    yield from (f"compiled {package.name}" for package in layer.compiled)


def differences(plan: Plan, wheels: WheelSet) -> Iterator[str]:
    """How what *plan* asks for differs from what *wheels* were chosen for; nothing where they fit."""
    wanted, had = dict.fromkeys(asked_for(plan)), dict.fromkeys(wheels.asked)
    yield from (
        f"`{word}` of the profile's packages is not in the lock" for word in wanted if word not in had
    )
    yield from (
        f"`{word}` is in the lock, not in the profile's packages" for word in had if word not in wanted
    )
    for layer in plan.python.layers if plan.python is not None else ():
        accelerator = layer.torch.accelerator if layer.torch is not None else "auto"
        if accelerator not in ("auto", wheels.accelerator):
            yield f"the profile asks for torch's build {accelerator}, the lock is for {wheels.accelerator}"
