"""How much room an environment will take, before anything of it is fetched. Pure but for a look at the state.

Downloads, builds and caches land on the workspace's file system too, so they count there. What is given is the least
that is surely needed: an estimate must not refuse an instance that would have done.
"""

from __future__ import annotations

import os
from typing import Mapping, Optional

from ...contract.findings import Environment, Facts
from ...contract.parsing import parse
from ...contract.plan import Layer, Python
from ...run.context import Context
from ...run.interpreters import path_meant
from . import from_lock

VENV_BYTES = 50 << 20
LAYER_BYTES = 100 << 20
TORCH_CUDA_BYTES = 9_000_000_000
"""About 3 GB of wheels, NVIDIA's libraries among them, and 6 GB of what is in them."""
TORCH_CPU_BYTES = 1_000_000_000


def bytes_needed(python: Python, context: Context, found: Mapping[str, object]) -> int:
    """What *python* will still take on the file system of the workspace; 0 for an environment that is elsewhere.

    Args:
        found: The instance's facts.
    """
    facts = parse(Facts, found, "facts")
    path = path_meant(python, context, facts)
    if not path.startswith(context.workspace.rstrip("/") + "/"):
        return 0
    if python.locked is not None and not os.path.exists(path):
        return VENV_BYTES + from_lock.room_needed(python.locked)
    present = next((venv for venv in facts.venvs if venv.path == path), None)
    layers = [_layer_bytes(layer, facts) for layer in python.layers if not _is_there(layer, present)]
    return (VENV_BYTES if present is None else 0) + sum(layers)


def _is_there(layer: Layer, present: Optional[Environment]) -> bool:
    return present is not None and (layer.torch is None or present.torch is not None)


def _layer_bytes(layer: Layer, facts: Facts) -> int:
    if layer.torch is None:
        return LAYER_BYTES
    accelerator = layer.torch.accelerator
    has_cuda = bool(facts.gpus) if accelerator == "auto" else accelerator != "cpu"
    return TORCH_CUDA_BYTES if has_cuda else TORCH_CPU_BYTES
