"""What the agent's tests share. Runs on Python 3.8 too: pytest and the standard library only."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.agent_runs import AgentRuns
from harness.downloads import Bench
from harness.environments import Surroundings, copy_of_environment
from harness.file_server import FileServer, make_certificate
from harness.package_index import PackageIndex
from provision_agent.contract.plan_parts import Limits
from provision_agent.downloads import Downloads, Sources
from provision_agent.steps.python.locked_install import LockedInstalls
from provision_agent.steps.python.venv import Venv
from provision_agent.steps.python.wheel_store import WheelStore


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A fresh workspace."""
    made = Bench(tmp_path / "workspace")
    made.root.mkdir()
    yield made
    made.cancelled.set()


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    """What a step is handed; many tests have another workspace."""
    return Surroundings(str(tmp_path))


@pytest.fixture
def venv(tmp_path: Path) -> Venv:
    """An environment with pip and nothing else, that a run has just made."""
    path = str(tmp_path / "venv")
    copy_of_environment(path)
    return Venv(path, os.path.join(path, "bin", "python"), True)


@pytest.fixture
def bare_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of this machine's settings, none; a home folder without any. What failed is tried again soon."""
    from provision_agent.steps.python import installer

    told = ("PIP_", "UV_", "SSL_", "REQUESTS_", "CURL_")
    for name in [name for name in os.environ if name.startswith(told) or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(installer, "SCHEDULE", replace(installer.SCHEDULE, base_s=0.01))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "home"))


@pytest.fixture
def bare_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip and uv know no settings but those of the test, and what failed is tried again soon."""
    from provision_agent.steps.python import installer

    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(installer, "SCHEDULE", replace(installer.SCHEDULE, base_s=0.01))


@pytest.fixture
def uv() -> str:
    """The path of a real uv."""
    here = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    if here is None:
        pytest.skip("there is no uv here")
    return here


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[AgentRuns]:
    """Whole runs in a workspace; what outlives them is ended."""
    runs = AgentRuns(tmp_path)
    yield runs
    runs.stop_services()


@pytest.fixture
def noted_uv(bare_pip: None, uv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real uv, on PATH; it notes its calls in the file ``calls``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "uv").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexec {uv} "$@"\n')
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """A modern index, and the installers' own; many tests have another one."""
    with PackageIndex(is_modern=True) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        index.add("numpy", "1.26.4")
        index.add("numpy", "2.1.0")
        index.add("scipy", "1.0", requires=["numpy"])
        yield index


@pytest.fixture
def by_lock(here: Surroundings) -> Iterator[LockedInstalls]:
    """As a run has it, beside its downloads."""
    engine = Downloads([], Limits(), here.context, Sources(rules=(), secrets={}))
    folder = os.path.join(here.workspace, ".provision", "wheels")
    store = WheelStore(here.context, folder, limits=Limits(), line=engine.line)
    yield LockedInstalls(store, here.context)
    store.close(is_done=True)
    engine.stop()


@pytest.fixture
def server() -> Iterator[FileServer]:
    """An honest server on 127.0.0.1."""
    with FileServer() as made:
        yield made


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PEM file for https on every loopback name, good as CA file too."""
    directory = tmp_path_factory.mktemp("tls")
    return make_certificate(str(directory), "localhost", "127.0.0.1", "127.0.0.2", "::1")


@pytest.fixture
def lasting_path() -> Iterator[Path]:
    """A folder that a boot would not clear, as a workspace is; `tmp_path` is not."""
    folder = tempfile.mkdtemp(prefix="provision-", dir="/var/tmp")
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests talk to loopback, whatever the environment says."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
