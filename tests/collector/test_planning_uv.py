"""uv on this machine: found where it is, else fetched once into the user's cache, else named with what installs it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.package_index import PackageIndex
from provision_collector.errors import ProvisionError
from provision_collector.planning import uv_tool


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """The only index; there is no uv on PATH, in this Python or in the cache."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(uv_tool, "_of_this_python", lambda: None)
    with PackageIndex() as index:
        for name, value in index.environment.items():
            monkeypatch.setenv(name, value)
        yield index


def test_a_uv_that_is_not_here_is_fetched_once_and_found_from_then_on(index: PackageIndex) -> None:
    index.add("uv", "9.9", files={"uv-9.9.data/scripts/uv": "#!/bin/sh\necho uv 9.9\n"})

    path = uv_tool.find_uv()
    asked = len(index.requests)

    assert os.stat(path).st_mode & stat.S_IXUSR and path.endswith("/provision/tools/bin/uv")
    assert uv_tool.find_uv() == path and len(index.requests) == asked


def test_a_uv_that_cannot_be_had_is_said_with_what_installs_it(index: PackageIndex) -> None:
    with pytest.raises(ProvisionError, match="cannot be fetched") as caught:
        uv_tool.find_uv()

    assert "pip install uv" in str(caught.value.hint)


def test_the_uv_on_the_path_comes_first(index: PackageIndex, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    own = tmp_path / "empty" / "uv"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)

    assert uv_tool.find_uv() == str(own) and index.requests == []
