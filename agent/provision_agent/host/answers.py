"""What another interpreter answers to the questions of `probe`, as it is relied on here.

The answer comes from a child in which foreign modules ran, so it is parsed like anything from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Dict, Optional, Tuple

from ..contract.parsing import bounded


class Answer:
    """The answer to one of `probe.QUESTIONS`."""

    question: ClassVar[str]


@dataclass(frozen=True)
class Interpreter(Answer):
    """What the interpreter is."""

    question: ClassVar[str] = "interpreter"
    version: str
    prefix: str
    is_venv: bool
    site_packages: Tuple[str, ...]
    """The folders into which it installs."""
    has_pip: bool


@dataclass(frozen=True)
class Installed(Answer):
    """What is installed there."""

    question: ClassVar[str] = "installed"
    versions: Dict[str, str]
    """Version of every distribution by its normalised name."""


@dataclass(frozen=True)
class Harm:
    """Files of one distribution that are not as its install left them; the first few of each kind, but all links."""

    missing: Tuple[str, ...] = ()
    changed: Tuple[str, ...] = ()
    """Not as its record says."""
    dangling: Tuple[str, ...] = bounded((), max_chars=4096)
    """Full paths of links to nothing in the place of files: what is written there would land where they lead."""


@dataclass(frozen=True)
class Damage(Answer):
    """What has been done to distributions since they were installed."""

    question: ClassVar[str] = "damage"
    harmed: Dict[str, Harm]
    """By name, of those that were asked for and are there."""


@dataclass(frozen=True)
class Inventory(Answer):
    """What is installed there, and what has been done to it since."""

    question: ClassVar[str] = "inventory"
    versions: Dict[str, str]
    """As `Installed`."""
    harmed: Dict[str, Harm]
    """As `Damage`, of all that is there."""


@dataclass(frozen=True)
class Imports(Answer):
    """Whether modules can be imported."""

    question: ClassVar[str] = "imports"
    reasons: Dict[str, str]
    """By module, why it cannot be imported; empty when it can."""


@dataclass(frozen=True)
class Node:
    """Whether a node of ComfyUI can be imported."""

    error: str
    """Empty when it can."""
    missing: Optional[str] = None
    """The module that is not there."""
    is_own: bool = False
    """That would be a part of the node itself."""


@dataclass(frozen=True)
class Nodes(Answer):
    """Whether nodes of one ComfyUI can be imported, one after the other."""

    question: ClassVar[str] = "nodes"
    imports: Dict[str, Node]
    """By folder."""


@dataclass(frozen=True)
class Torch(Answer):
    """Whether torch runs."""

    question: ClassVar[str] = "torch"
    version: Optional[str] = None
    """None: it cannot be imported."""
    cuda: Optional[str] = None
    """None: a CPU build."""
    is_available: bool = False
    """It sees a GPU."""
    ran_on: Optional[str] = None
    """``cuda`` or ``cpu``: where it has multiplied two matrices."""
    error: str = ""


@dataclass(frozen=True)
class Card:
    """One GPU, as its driver's library tells."""

    name: str
    compute_capability: str
    memory_bytes: int = bounded(low=0)


@dataclass(frozen=True)
class Gpus(Answer):
    """The GPUs, and the newest CUDA that their driver runs."""

    question: ClassVar[str] = "gpus"
    cuda: Optional[str] = None
    gpus: Tuple[Card, ...] = ()
