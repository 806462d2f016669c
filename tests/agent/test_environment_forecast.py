"""The room that an environment will take: never refused for nothing, never forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings
from provision_agent.contract.plan import Layer, Python, Torch
from provision_agent.steps.python import disk_estimate

GPU = [{"name": "card", "compute_capability": "8.9", "memory_bytes": 1}]
NUMPY = Layer(packages=("numpy",))


def torch(accelerator: str = "auto") -> Layer:
    return Layer(torch=Torch(accelerator=accelerator))


CASES: dict[str, tuple[Python, dict[str, Any], int]] = {
    "nothing there, a GPU": (
        Python(layers=(NUMPY, torch())),
        {"gpus": GPU},
        disk_estimate.VENV_BYTES + disk_estimate.LAYER_BYTES + disk_estimate.TORCH_CUDA_BYTES,
    ),
    "nothing there, no GPU": (
        Python(layers=(torch(),)),
        {},
        disk_estimate.VENV_BYTES + disk_estimate.TORCH_CPU_BYTES,
    ),
    "CPU wanted on a GPU": (
        Python(layers=(torch("cpu"),)),
        {"gpus": GPU},
        disk_estimate.VENV_BYTES + disk_estimate.TORCH_CPU_BYTES,
    ),
    "CUDA wanted by name": (
        Python(layers=(torch("cu128"),)),
        {},
        disk_estimate.VENV_BYTES + disk_estimate.TORCH_CUDA_BYTES,
    ),
    "torch is there": (
        Python(layers=(NUMPY, torch())),
        {"gpus": GPU, "venvs": [{"path": "{workspace}/venv", "torch": "2.9.1"}]},
        0,
    ),
    "the environment without torch": (
        Python(layers=(NUMPY, torch())),
        {"gpus": GPU, "venvs": [{"path": "{workspace}/venv", "torch": None}]},
        disk_estimate.TORCH_CUDA_BYTES,
    ),
    "an image's own": (
        Python(layers=(torch(),)),
        {"gpus": GPU, "venvs": [{"path": "/venv/main", "torch": "2.8.0"}]},
        0,
    ),
    "elsewhere by name": (Python(venv="/opt/mine", layers=(torch(),)), {"gpus": GPU}, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_still_to_come_is_counted_on_the_workspaces_file_system(name: str, tmp_path: Path) -> None:
    here = Surroundings(str(tmp_path))
    python, facts, expected = CASES[name]
    venvs = [dict(each, path=each["path"].format(workspace=tmp_path)) for each in facts.get("venvs", [])]

    assert disk_estimate.bytes_needed(python, here.context, dict(facts, venvs=venvs)) == expected
