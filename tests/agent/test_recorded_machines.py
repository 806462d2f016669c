"""Drivers and cards as people have reported them in public, and the build of torch that each must get, or the refusal.

`recorded_machines.json` has the address of each report. Where a report tells the driver only, the newest CUDA that
it runs follows from NVIDIA's table of drivers (https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from provision_agent.contract.failures import Failure
from provision_agent.contract.findings import Facts
from provision_agent.contract.parsing import parse
from provision_agent.contract.plan import Torch
from provision_agent.steps.python.builds import candidates

MACHINES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("recorded_machines.json").read_text())
WANTED = Torch(versions=("2.9.1", "2.7.1", "2.5.1"))
CUDA_OF_DRIVER = {
    418: "10.1", 450: "11.0", 455: "11.1", 465: "11.3", 470: "11.4", 515: "11.7", 531: "12.1", 535: "12.2",
    550: "12.4", 551: "12.4", 560: "12.6", 570: "12.8", 572: "12.8", 575: "12.9", 580: "13.0", 590: "13.1",
    595: "13.2", 596: "13.2",
}  # fmt: skip


def name_of(machine: dict[str, Any]) -> str:
    return f"{'+'.join(dict.fromkeys(card['name'] for card in machine['cards']))}-{machine['driver']}"


def facts_of(machine: dict[str, Any]) -> Facts:
    cards = [{"name": card["name"], "compute_capability": card["capability"]} for card in machine["cards"]]
    return parse(Facts, {"gpus": cards, "driver": machine["driver"], "cuda": machine["cuda"]})


def test_there_are_thirty_of_them_each_with_its_public_report() -> None:
    assert len({(machine["report"], machine["driver"]) for machine in MACHINES}) >= 30
    assert all(machine["report"].startswith("https://github.com/") for machine in MACHINES)
    assert all(CUDA_OF_DRIVER[int(m["driver"].partition(".")[0])] == m["cuda"] for m in MACHINES)


@pytest.mark.parametrize("machine", MACHINES, ids=name_of)
def test_a_machine_that_somebody_has_gets_the_torch_that_runs_there_or_a_reason(
    machine: dict[str, Any],
) -> None:
    if machine["torch"] is None:
        with pytest.raises(Failure) as caught:
            candidates(WANTED, facts_of(machine))
        assert caught.value.class_ == "gpu"
        lowest = min(machine["cards"], key=lambda card: float(card["capability"]))
        assert f"sm_{lowest['capability'].replace('.', '')}" in caught.value.message
        return
    first = candidates(WANTED, facts_of(machine))[0]

    assert f"{first.version}+{first.tag}" == machine["torch"]
