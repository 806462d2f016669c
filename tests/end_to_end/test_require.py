"""`require` as published: an instance that falls short is to be replaced, and nothing was fetched onto it."""

from __future__ import annotations

import pytest
from harness.content import Content
from harness.file_server import FileServer

from .conftest import Here

PROFILE = """
version: 1
name: test
limits: {{run: 60s}}
require: {{memory: 900TiB, disk_write: 1MB/s, line: 1kbit}}
downloads:
  - {{url: "{0}/model.bin", path: model.bin, level: critical}}
"""


@pytest.mark.timeout(240)
def test_the_outcome_of_an_unfit_instance_says_to_replace_it_and_why(here: Here, files: FileServer) -> None:
    files.add("/model.bin", Content(5_000_000))

    done = here.up(here.profile(PROFILE.format(files.url(""))))

    assert (done.code, done.outcome["verdict"], done.outcome["next"]) == (1, "failed", "replace_instance")
    [error] = done.outcome["errors"]
    assert (error["class"], error["item"]) == ("unfit", "require.memory")
    assert "GiB; 9.216e+05 GiB are required" in error["message"]
    assert files.bytes_sent() == 0
