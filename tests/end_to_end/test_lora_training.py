"""`examples/lora-training.yaml` from here and home again, with a small program in the place of the trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Here, eventually
from .test_lifetime import end_process

pytestmark = pytest.mark.timeout(150)

EXAMPLE = Path(__file__).parents[2] / "examples" / "lora-training.yaml"
TRAINER = """
import os, pathlib, sys
where = pathlib.Path("..")
config = (where / "dataset.toml").read_text()
assert str(where.resolve() / "dataset") in config
words = sorted(path.name for path in (where / "dataset").iterdir())
out = where / "trained"; out.mkdir(exist_ok=True)
for epoch in (1, 2):
    print("epoch", epoch, *words, flush=True)
    (out / f"my-style-{epoch:06}.safetensors").write_bytes(b"lora" * 1000 * epoch)
(out / "my-style-state.bin").write_bytes(b"not wanted")
"""
BESIDE = """
version: 1
name: trains
extends: {example}
files:
  - {{path: sd-scripts/sdxl_train_network.py, content: {program}}}
jobs:
  - {{name: train, directory: sd-scripts, run: [python3, sdxl_train_network.py], level: critical}}
"""


def test_a_lora_is_trained_from_pictures_here_and_comes_home_before_the_instance_ends_itself(
    here: Here,
) -> None:
    pictures = here.folder / "pictures"
    pictures.mkdir()
    for name in ("cat-01.png", "cat-01.txt", "README.txt"):
        (pictures / name).write_text(name)
    words = {"example": EXAMPLE, "program": json.dumps(TRAINER)}
    profile = here.profile(BESIDE.format(**words))
    steps = [word for step in ("uploads", "files", "jobs") for word in ("--only", step)]
    try:
        done = here.up(
            profile, "--set", f"dataset={pictures}/", "--outputs", "home", *steps, within_s=100,
            environment={"RUNPOD_API_KEY": "k3y-of-the-provider"},
        )  # fmt: skip
        lifetime = here.instance.workspace / ".provision/lifetime"
        measured = eventually(lambda: json.loads((lifetime / "state.json").read_text()), within_s=60)
        order = json.loads((lifetime / "order.json").read_text())
    finally:
        end_process(here)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout[-2000:] + done.stderr
    assert done.outcome["jobs"][0]["exit_status"] == 0
    assert order["lifetime"]["idle_s"] == 1200 and "runpodctl" in order["lifetime"]["then"]["run"][-1]
    assert measured["run"] == done.outcome["run"]
    home = {path.name: path.stat().st_size for path in (here.folder / "home" / "lora").glob("[!.]*")}
    assert home == {"my-style-000001.safetensors": 4000, "my-style-000002.safetensors": 8000}
    assert Path(done.outcome["logs"]["job-train"]).read_text() == (
        "epoch 1 cat-01.png cat-01.txt\nepoch 2 cat-01.png cat-01.txt\n"
    )
