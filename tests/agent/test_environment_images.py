"""Images as other people make them: which environment is taken, why, and that packages get into it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings, copy_of_environment
from harness.package_index import FAKE_TORCH, PackageIndex
from provision_agent.contract.failures import Failure
from provision_agent.contract.findings import Facts
from provision_agent.contract.parsing import parse
from provision_agent.contract.plan import Layer, Python
from provision_agent.host import environments
from provision_agent.run import interpreters
from provision_agent.steps.python import packages, venv

GPU = [{"name": "card", "compute_capability": "8.9", "memory_bytes": 1}]
PIP = Python(installer="pip", timeout_s=5, retries=0, layers=(Layer(("sympy",)),))
OWN = ".".join(map(str, sys.version_info[:2]))


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    return Surroundings(str(tmp_path / "workspace"))


@pytest.fixture
def index(bare_pip: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        monkeypatch.setenv("FAKE_GPU", "1")
        index.add("sympy", "1.13")
        yield index


def site_of(path: str) -> Path:
    return next(Path(path).glob("lib/python3*/site-packages"))


def with_torch(path: str) -> str:
    site = site_of(path)
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").write_text(FAKE_TORCH.format(version="2.5.1", cuda="12.4"))
    record = site / "torch-2.5.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.5.1\n")
    (record / "RECORD").write_text("")
    return path


def facts(here: Surroundings, *paths: str, gpus: Any = GPU) -> dict[str, Any]:
    """Facts of an instance on which these are found; the environments are looked at as they are."""
    told = [
        {
            "path": path,
            "python": environments.interpreter_of(path),
            "torch": environments.torch_in(path),
            "is_writable": environments.is_writable(path),
            "is_managed": environments.is_managed(path),
        }
        for path in paths
    ]
    own = {"path": sys.executable, "version": ".".join(map(str, sys.version_info[:3]))}
    return {"gpus": list(gpus), "uv": None, "pythons": [own], "venvs": told}


def said(here: Surroundings) -> str:
    return "\n".join(str(fields.get("message")) for name, fields in here.events if name == "package_progress")


def conda(path: str) -> str:
    """The base of a conda, by its folders: no pyvenv.cfg, and records of its own."""
    shutil.copytree(sys.base_prefix, path, symlinks=True, copy_function=os.link, ignore=ignored)
    (Path(path) / "conda-meta").mkdir()
    (Path(path) / "conda-meta" / f"python-{OWN}.7-h1234_0.json").write_text("{}")
    (Path(path) / "conda-meta" / "pytorch-2.5.1-py3_cuda12.4.json").write_text("{}")
    site = site_of(path)
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").write_text(FAKE_TORCH.format(version="2.5.1", cuda="12.4"))
    return path


def ignored(folder: str, names: list[str]) -> set[str]:
    """What makes a Python large and is not needed to run it; its packages but pip."""
    if folder.endswith("site-packages"):
        return {name for name in names if not name.startswith("pip")}
    return {name for name in names if name in ("test", "tests", "idlelib", "tkinter", "__pycache__", "share")}


def test_a_conda_base_whose_torch_runs_here_is_taken_and_gets_the_packages(
    index: PackageIndex, here: Surroundings, tmp_path: Path
) -> None:
    base = conda(str(tmp_path / "conda"))

    found = venv.prepare(PIP, here.context, facts(here, base))
    packages.install(PIP, found, here.context, facts(here, base))

    assert (found.path, found.is_created) == (base, False)
    assert interpreters.version_in(base) == f"{OWN}.7"
    assert f"taking {base}: its torch 2.5.1 runs on this GPU already" in said(here)
    assert (site_of(base) / "sympy").is_dir()


def test_a_python_that_the_system_manages_is_taken_for_its_torch_and_gets_the_packages(
    index: PackageIndex, here: Surroundings, tmp_path: Path
) -> None:
    """PEP 668, as Debian has it: pip refuses to install there unless it is told to."""
    base = conda(str(tmp_path / "usr"))
    shutil.rmtree(f"{base}/conda-meta")
    with_torch_metadata = site_of(base) / "torch-2.5.1.dist-info"
    with_torch_metadata.mkdir()
    (with_torch_metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.5.1\n")
    (Path(base) / "lib" / f"python{OWN}" / "EXTERNALLY-MANAGED").write_text(
        "[externally-managed]\nError=no\n"
    )
    os.unlink(f"{base}/bin/python")

    found = venv.prepare(PIP, here.context, facts(here, base))
    packages.install(PIP, found, here.context, facts(here, base))

    assert found == venv.Venv(base, f"{base}/bin/python3", False)
    assert "runs on this GPU already, which the system claims to manage" in said(here)
    assert (site_of(base) / "sympy").is_dir()


def test_an_environment_that_uv_made_without_pip_gets_one_and_is_kept(
    index: PackageIndex, here: Surroundings, tmp_path: Path, uv: str
) -> None:
    path = str(tmp_path / "opt-venv")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, path], check=True, timeout=60)
    with_torch(path)
    kept = site_of(path) / "years_of_work.py"
    kept.write_text("")

    found = venv.prepare(PIP, here.context, facts(here, path))
    packages.install(PIP, found, here.context, facts(here, path))

    assert (found.path, found.is_created) == (path, False)
    assert f"{path} has no pip: " in said(here)
    assert kept.exists() and (site_of(path) / "sympy").is_dir()


def test_an_environment_that_can_have_no_pip_is_refused_and_not_touched(
    bare_pip: None, here: Surroundings, tmp_path: Path
) -> None:
    path = str(tmp_path / "theirs")
    copy_of_environment(path)
    for folder in site_of(path).glob("pip*"):
        shutil.rmtree(folder)
    (site_of(path) / "ensurepip.py").write_text("raise ImportError('ensurepip is not available')")
    (site_of(path) / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path.insert(0, type('No', (), {'find_spec': staticmethod("
        "lambda name, *_: (_ for _ in ()).throw(ImportError('no ensurepip')) if name == 'ensurepip' else None)}))"
    )
    mute = here.write("python3", "#!/bin/sh\necho no module named pip\nexit 1\n")
    os.chmod(mute, 0o755)
    known = dict(facts(here), pythons=[{"path": mute, "version": "3.11"}])

    with pytest.raises(Failure) as caught:
        venv.prepare(Python(venv=path, installer="pip"), here.context, known)

    assert caught.value.case == "no_pip"
    assert f"{path}: it has no pip, and none can be added" in caught.value.message
    assert (site_of(path) / "sitecustomize.py").exists()


def test_an_environment_that_nobody_may_write_is_passed_over_and_said_so(
    here: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GPU", "1")
    sealed, open_ = str(tmp_path / "sealed"), str(tmp_path / "open")
    for path in (sealed, open_):
        copy_of_environment(path)
        with_torch(path)
    site_of(sealed).chmod(0o555)

    found = venv.prepare(PIP, here.context, facts(here, sealed, open_))
    meant = interpreters.path_meant(
        Python(), Surroundings(str(tmp_path / "w2")).context, parse(Facts, facts(here, sealed, open_))
    )

    assert found.path == meant == open_
    with pytest.raises(Failure) as caught:
        venv.prepare(Python(venv=sealed, installer="pip", layers=PIP.layers), here.context, facts(here))
    assert (caught.value.class_, caught.value.case) == ("read_only", "venv_read_only")
    assert venv.prepare(Python(venv=sealed, installer="pip"), here.context, facts(here)).path == sealed


def test_where_nothing_suits_the_own_environment_is_made_and_each_reason_is_said(
    here: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAKE_GPU", raising=False)
    sealed, blind = str(tmp_path / "sealed"), str(tmp_path / "blind")
    for path in (sealed, blind):
        copy_of_environment(path)
        with_torch(path)
    site_of(sealed).chmod(0o555)

    found = venv.prepare(PIP, here.context, facts(here, sealed, blind))

    assert (found.path, found.is_created) == (f"{here.workspace}/venv", True)
    told = said(here)
    assert f"{sealed}: nothing can be added to it: its packages are read-only" in told
    assert f"{blind}: its torch sees no GPU" in told


def test_the_environments_of_common_images_are_found_with_their_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, workspace = tmp_path / "home", tmp_path / "workspace"
    for place, record in (
        (workspace / "ComfyUI" / "venv", "torch-2.9.1+cu128.dist-info"),
        (home / "miniconda3", "torch-2.5.1-py3.11.egg-info"),
    ):
        (place / "lib" / "python3.11" / "site-packages" / record).mkdir(parents=True)
        (place / "bin").mkdir()
        (place / "bin" / "python").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)

    found = {each["path"]: each["torch"] for each in environments.found(str(workspace))}

    assert found[str(workspace / "ComfyUI" / "venv")] == "2.9.1+cu128"
    assert found[str(home / "miniconda3")] == "2.5.1"


def test_a_workspace_behind_a_link_has_one_environment_under_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, workspace = tmp_path / "volume", tmp_path / "workspace"
    volume.mkdir()
    workspace.symlink_to(volume)
    here = Surroundings(str(workspace))
    monkeypatch.setenv("VIRTUAL_ENV", str(volume / "venv"))

    made = venv.prepare(Python(installer="pip"), here.context, facts(here, gpus=()))
    again = venv.prepare(Python(installer="pip"), here.context, facts(here, gpus=()))
    mine = [
        each
        for each in environments.found(str(workspace))
        if os.path.realpath(str(each["path"])) == str(volume / "venv")
    ]

    assert (made.path, made.is_created, again.is_created) == (str(workspace / "venv"), True, False)
    assert [each["path"] for each in mine] == [str(workspace / "venv")]
    assert venv.is_ours(str(mine[0]["path"]), here.context)
