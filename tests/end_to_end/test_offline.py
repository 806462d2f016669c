"""`up --offline`: what is on the instance has to do, what is missing is told, and nobody outside is asked from either side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.content import Content
from harness.file_server import FileServer

from .conftest import Here

PROFILE = """
version: 1
name: site
downloads:
  - {{url: "{0}/base.bin", path: base.bin, level: critical}}
  - {{url: "{0}/lora.bin", path: lora.bin}}
  - {{url: "hf://o/r/extra.bin", path: extra.bin, level: optional, size: 5MiB}}
"""


@pytest.fixture
def instance_environment(files: FileServer) -> dict[str, str]:
    """The instance takes the file server for the model hub."""
    return {"HF_ENDPOINT": files.url("")}


def test_what_is_missing_is_listed_and_the_levels_decide(here: Here, files: FileServer) -> None:
    server = files
    for name in ("base", "lora"):
        server.add(f"/{name}.bin", Content(1 << 20, seed=len(name)))
    profile = here.profile(PROFILE.format(server.url("")))
    environment = {"HF_TOKEN": "hf_" + "x" * 30, "HF_ENDPOINT": server.url("")}
    assert here.up(profile, environment=environment).code == 0
    workspace = Path(here.instance.workspace)
    (workspace / "lora.bin").unlink()
    asked = len(server.requests)

    done = here.up(profile, "--offline", environment=environment)

    assert done.code == 5, "what is critical is there"
    missing = {error["item"]: error for error in done.outcome["errors"]}
    assert {item: error["class"] for item, error in missing.items()} == {"lora.bin": "offline"}
    assert "1.0 MB" in missing["lora.bin"]["message"]
    assert "without `--offline`" in missing["lora.bin"]["hint"]
    assert done.outcome["next"] == "fix_instance"
    warned = json.dumps(done.outcome["warnings"])
    assert "extra.bin" in warned and "5.2 MB" in warned
    assert len(server.requests) == asked
    assert here.up(profile, environment=environment).code == 0, "the same plan, and a run that may ask"
