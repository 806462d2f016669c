"""What a plan says of packages beside the layers: where they come from, and exactly which ones a lock allows. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Mapping, Optional, Tuple

from .parsing import bounded
from .plan_parts import Basic, bytes_field, level_field


@dataclass(frozen=True)
class PackageIndex:
    """An index that is asked besides those that the instance has configured. `basic` goes to its https host only."""

    url: str
    basic: Optional[Basic] = None


@dataclass(frozen=True)
class LockedWheel:
    """One wheel, as a lock pins it. `unpacked_bytes` None: nobody could tell."""

    name: str = bounded(max_chars=256)
    """Normalised."""
    version: str = bounded(max_chars=256)
    url: str = bounded()
    sha256: str = bounded(pattern="[0-9a-f]{64}")
    size_bytes: Optional[int] = bytes_field()
    unpacked_bytes: Optional[int] = bytes_field()


@dataclass(frozen=True)
class LockedEnvironment:
    """All wheels of an environment, and for what they were chosen; nothing else is installed."""

    python: str = bounded(pattern=r"\d{1,2}\.\d{1,2}")
    platform: str = bounded(max_chars=64)
    """Such as ``linux-x86_64``."""
    accelerator: str = bounded(pattern="none|cpu|cu[0-9]{2,3}")
    """Which build of torch; ``none``: no layer asks for torch."""
    wheels: Tuple[LockedWheel, ...] = bounded((), max_entries=10_000)


WHEEL_PLACEHOLDERS = {
    "python": "tag of Python, such as `cp311`",
    "python_version": "`3.11`",
    "torch": "release of torch, such as `2.9`",
    "torch_version": "version of torch, such as `2.9.1`",
    "cuda": "CUDA that torch was built with, such as `cu128`",
    "cuda_version": "the same, such as `12.8`",
    "cuda_major": "`12`",
    "capability": "compute capability of the lowest card, such as `89`",
    "abi": "`TRUE` or `FALSE`: torch's C++ ABI, as the names of some wheels have it",
    "platform": "`linux_x86_64` or `linux_aarch64`",
    "machine": "`x86_64` or `aarch64`",
}
"""What may stand in braces in the address of a wheel, and what it stands for."""
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class CompiledPackage:
    """A package with code for the GPU: a prebuilt wheel, or none.

    `name` is a name, perhaps with versions; `wheels` are addresses with `WHEEL_PLACEHOLDERS`, the first that exists is
    taken. It is compiled only with `build` at if_nvcc, and with an nvcc of the CUDA that torch was built with.
    """

    name: str = bounded(max_chars=256)
    wheels: Tuple[str, ...] = bounded((), max_entries=64)
    build: str = bounded("never", one_of=("never", "if_nvcc"))
    level: str = level_field()


def placeholders(template: str) -> Tuple[str, ...]:
    """The names in braces in *template*."""
    return tuple(_PLACEHOLDER.findall(template))


def wheel_address(template: str, values: Mapping[str, str]) -> Tuple[str, List[str]]:
    """*template* with its placeholders filled in, and the names of those for which there is no value."""
    missing = [name for name in dict.fromkeys(placeholders(template)) if name not in values]
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template), missing
