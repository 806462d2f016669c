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
    path = path_of(python, context, facts)
    if not path.startswith(context.workspace.rstrip("/") + "/"):
        return 0
    present = next((venv for venv in facts.venvs if venv.path == path), None)
    layers = [_layer_bytes(layer, facts) for layer in python.layers if not _is_there(layer, present)]
    return (VENV_BYTES if present is None else 0) + sum(layers)


def path_meant(python: Python, context: Context, found: Mapping[str, object]) -> str:
    """The environment that is meant; with `auto` the first on a GPU that has torch may do, and then needs nothing.

    Args:
        found: The instance's facts.
    """
    return path_of(python, context, parse(Facts, found, "facts"))


def path_of(python: Python, context: Context, facts: Facts) -> str:
    """As `path_meant`."""
    if python.venv != "auto":
        return os.path.join(context.workspace, os.path.expanduser(python.venv))
    chosen = (context.state.get("venv", "auto") or {}).get("path")
    ready = (venv.path for venv in facts.venvs if venv.torch and facts.gpus)
    return str(chosen or next(ready, os.path.join(context.workspace, "venv")))


def _is_there(layer: Layer, present: Optional[Environment]) -> bool:
    return present is not None and (layer.torch is None or present.torch is not None)


def _layer_bytes(layer: Layer, facts: Facts) -> int:
    if layer.torch is None:
        return LAYER_BYTES
    accelerator = layer.torch.accelerator
    has_cuda = bool(facts.gpus) if accelerator == "auto" else accelerator != "cpu"
    return TORCH_CUDA_BYTES if has_cuda else TORCH_CPU_BYTES
