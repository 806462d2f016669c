"""How much room an environment will take, before anything of it is fetched. Pure but for a look at the state.

Downloads, builds and caches land on the workspace's file system too, so they count there. What is given is the least
that is surely needed: an estimate must not refuse an instance that would have done.
"""

from __future__ import annotations

import os
from typing import Any, Mapping

from ...contract.plan import Layer, Python
from ...run.context import Context

VENV_BYTES = 50 << 20
LAYER_BYTES = 100 << 20
TORCH_CUDA_BYTES = 9_000_000_000
"""About 3 GB of wheels, NVIDIA's libraries among them, and 6 GB of what is in them."""
TORCH_CPU_BYTES = 1_000_000_000


def bytes_needed(python: Python, context: Context, facts: Mapping[str, Any]) -> int:
    """What *python* will still take on the file system of the workspace; 0 for an environment that is elsewhere."""
    path = path_meant(python, context, facts)
    if not path.startswith(context.workspace.rstrip("/") + "/"):
        return 0
    present = next((found for found in facts.get("venvs", []) if found["path"] == path), None)
    layers = [_layer_bytes(layer, facts) for layer in python.layers if not _is_there(layer, present)]
    return (VENV_BYTES if present is None else 0) + sum(layers)


def path_meant(python: Python, context: Context, facts: Mapping[str, Any]) -> str:
    """The environment that is meant; with `auto` the first on a GPU that has torch may do, and then needs nothing."""
    if python.venv != "auto":
        return os.path.join(context.workspace, os.path.expanduser(python.venv))
    chosen = (context.state.get("venv", "auto") or {}).get("path")
    ready = [
        str(found["path"]) for found in facts.get("venvs", []) if found.get("torch") and facts.get("gpus")
    ]
    return str(chosen or next(iter(ready), os.path.join(context.workspace, "venv")))


def _is_there(layer: Layer, present: Any) -> bool:
    return present is not None and (layer.torch is None or present.get("torch") is not None)


def _layer_bytes(layer: Layer, facts: Mapping[str, Any]) -> int:
    if layer.torch is None:
        return LAYER_BYTES
    has_cuda = layer.torch.accelerator != "cpu" and (
        layer.torch.accelerator != "auto" or bool(facts.get("gpus"))
    )
    return TORCH_CUDA_BYTES if has_cuda else TORCH_CPU_BYTES
