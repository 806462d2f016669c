"""A layer is what its packages say of themselves: their RECORDs are held against the disk, and what is gone comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings
from harness.package_index import PackageIndex
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Check, Layer, Python
from provision_agent.steps import checks
from provision_agent.steps.python import layer_record, packages
from provision_agent.steps.python.imports import Ladder
from provision_agent.steps.python.venv import Venv

NO_GPU: dict[str, Any] = {"gpus": [], "cuda": None}
ORDER = Python(installer="pip", timeout_s=5, retries=0, layers=(Layer(packages=("client", "six")),))
TOOL = "#!python\nprint('hello')\n"


@pytest.fixture
def index(bare_pip: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        index.add("six", "1.16", files={"six.py": "VALUE = 6\n", "six-1.16.data/scripts/six-tool": TOOL})
        index.add(
            "names", "3.4", files={"names/__init__.py": "from . import core\n", "names/core.py": "A = 1\n"}
        )
        index.add("client", "2.0", files={"client/__init__.py": "import names\n"}, requires=["names"])
        yield index


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    return Surroundings(str(tmp_path), within_s=300.0)


def site(venv: Venv, name: str) -> Path:
    (found,) = Path(venv.path).glob("lib/python3*/site-packages")
    return found / name


def imports(venv: Venv) -> bool:
    return subprocess.run([venv.python, "-c", "import client, six"], check=False, timeout=20).returncode == 0


def flip(path: Path) -> None:
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES = {
    "a module of a named package is gone": lambda venv: site(venv, "six.py").unlink(),
    "a module of a dependency is gone": lambda venv: site(venv, "names/core.py").unlink(),
    "a module is cut short": lambda venv: os.truncate(site(venv, "client/__init__.py"), 3),
    "a module is a link to nothing": lambda venv: (
        site(venv, "six.py").unlink(),
        site(venv, "six.py").symlink_to(os.path.join(venv.path, "nowhere")),
    ),
    "a program cannot be run": lambda venv: Path(venv.path, "bin/six-tool").chmod(0o644),
    "a dependency is gone with its metadata": lambda venv: [
        shutil.rmtree(path) for path in site(venv, "").glob("names*")
    ],
}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_a_layer_brought_is_missed_and_brought_again_in_the_same_run(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    packages.install(ORDER, venv, here.context, NO_GPU)
    for times, how in enumerate(DAMAGES, start=2):
        DAMAGES[how](venv)

        packages.install(ORDER, venv, here.context, NO_GPU)

        program = os.path.join(venv.path, "bin/six-tool")
        assert imports(venv) and os.access(program, os.X_OK), how
        assert len(here.of("package_finished")) == times, how
    assert not os.path.lexists(os.path.join(venv.path, "nowhere")), "nothing is written through a link"
    asked = len(index.requests)
    packages.install(ORDER, venv, here.context, NO_GPU)
    assert len(here.of("package_skipped")) == 1 and len(index.requests) == asked, "all is well now"


def test_a_byte_of_a_package_that_changed_is_found_by_a_run_that_reads_them(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    packages.install(ORDER, venv, here.context, NO_GPU)
    good = site(venv, "names/core.py").read_bytes()
    flip(site(venv, "names/core.py"))

    packages.install(ORDER, venv, here.context, NO_GPU)
    assert site(venv, "names/core.py").read_bytes() != good, "sizes say nothing of it"
    packages.install(ORDER, venv, here.context, NO_GPU, reads_bytes=True)

    assert site(venv, "names/core.py").read_bytes() == good
    assert any("names 3.4" in str(event["message"]) for event in here.of("warning"))


def test_what_cannot_be_brought_again_fails_the_layer_and_what_is_left_stays(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages.install(ORDER, venv, here.context, NO_GPU)
    site(venv, "names/core.py").unlink()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")

    with pytest.raises(Failure) as caught:
        packages.install(ORDER, venv, here.context, NO_GPU)

    assert "names lost files" in caught.value.message
    assert site(venv, "names/__init__.py").exists()


def test_a_version_that_is_on_no_index_any_more_gives_way_to_what_the_layer_asks_for(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    packages.install(ORDER, venv, here.context, NO_GPU)
    site(venv, "names/core.py").unlink()
    index.withdraw("names")
    index.add("names", "3.5", files={"names/__init__.py": "", "names/core.py": ""})

    packages.install(ORDER, venv, here.context, NO_GPU)

    assert imports(venv) and site(venv, "names-3.5.dist-info").exists()


def test_requirements_of_a_repository_are_held_against_the_disk_as_layers_are(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    path = here.write("node/requirements.txt", "client\n")
    for _ in range(2):
        packages.install_requirements(path, venv, here.context, Python(installer="pip"), "node", "required")
        site(venv, "names/core.py").unlink(missing_ok=True)

    packages.install_requirements(path, venv, here.context, Python(installer="pip"), "node", "required")

    assert site(venv, "names/core.py").exists()


def test_what_an_image_came_without_is_left_as_it_is(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    """An image that was made smaller has packages without their tests; a layer that names them is satisfied."""
    subprocess.run([venv.python, "-m", "pip", "install", "-q", "six", "client"], check=True, timeout=20)
    site(venv, "names/core.py").unlink()
    site(venv, "names/__init__.py").write_text("from . import core\n")

    order = replace(ORDER, layers=(Layer(packages=("client", "six", "names")),))
    for _ in range(2):
        packages.install(order, venv, here.context, NO_GPU)

    assert not site(venv, "names/core.py").exists()
    assert layer_record.read(here.context, f"{venv.path}:client, six, names").harmed == ("names",)
    assert [event["reason"] for event in here.of("package_skipped")] == ["verified"]


def test_in_an_environment_of_ours_a_package_that_was_broken_before_is_mended_by_the_layer_that_names_it(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    here.context.state.put("venv", venv.path, {"is_ours": True})
    packages.install(replace(ORDER, layers=(Layer(packages=("client",)),)), venv, here.context, NO_GPU)
    here.context.state.forget("layer", f"{venv.path}:client")
    site(venv, "names/core.py").unlink()

    order = replace(ORDER, layers=(Layer(packages=("names",)),))
    packages.install(order, venv, here.context, NO_GPU)

    assert site(venv, "names/core.py").exists()


def test_a_package_that_the_plan_takes_out_is_not_missed(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    order = replace(ORDER, remove=("names",))
    packages.install(order, venv, here.context, NO_GPU)

    packages.install(order, venv, here.context, NO_GPU)

    assert [event["reason"] for event in here.of("package_skipped")] == ["verified"]
    assert not site(venv, "names").exists()


# -- a check that cannot import what a layer should have brought


def ladder(order: Python, venv: Venv, here: Surroundings) -> Ladder:
    return Ladder(order, venv, here.context, NO_GPU)


def test_a_module_that_no_longer_imports_is_mended_by_its_bytes_before_the_check_is_told(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    packages.install(ORDER, venv, here.context, NO_GPU)
    spoilt = site(venv, "names/core.py")
    spoilt.write_text(spoilt.read_text().replace("A =", "A :"))  # as long as before
    shutil.rmtree(site(venv, "names/__pycache__"), ignore_errors=True)
    packages.install(ORDER, venv, here.context, NO_GPU)
    check = Check(name="client", imports=("client",))

    ladder(ORDER, venv, here).look(check, checks.do, here.context)

    assert [event["item"] for event in here.of("check_passed")] == ["client"]
    assert here.of("check_failed") == []


def test_a_dependency_that_is_gone_without_a_trace_is_brought_by_its_layer(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    """As after a run of an earlier release, which remembered only what a layer names."""
    packages.install(ORDER, venv, here.context, NO_GPU)
    key = layer_record.key_of(venv.path, "client, six")
    layer_record.keep(here.context, key, replace(layer_record.read(here.context, key), brought=()))
    for path in site(venv, "").glob("names*"):
        shutil.rmtree(path)
    packages.install(ORDER, venv, here.context, NO_GPU)
    assert not imports(venv)

    check = Check(name="client", imports=("client",))
    ladder(ORDER, venv, here).look(check, checks.do, here.context)

    assert [event["item"] for event in here.of("check_passed")] == ["client"]


def test_a_module_that_no_layer_brings_fails_its_check_at_once(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    packages.install(ORDER, venv, here.context, NO_GPU)
    asked = len(index.requests)
    check = Check(name="other", imports=("client", "other"))

    with pytest.raises(Failure):
        ladder(ORDER, venv, here).look(check, checks.do, here.context)

    assert len(index.requests) == asked
    assert [event["item"] for event in here.of("check_failed")] == ["other"]


def test_what_uv_linked_to_its_cache_and_somebody_spoilt_there_comes_from_the_index(
    index: PackageIndex, here: Surroundings, venv: Venv, uv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is cut short in place is cut short in uv's cache as well: it is the same file."""
    monkeypatch.setenv("PATH", f"{os.path.dirname(uv)}{os.pathsep}{os.environ['PATH']}")
    order = replace(ORDER, installer="uv")
    packages.install(order, venv, here.context, NO_GPU)
    os.truncate(site(venv, "names/core.py"), 0)

    packages.install(order, venv, here.context, NO_GPU)

    assert site(venv, "names/core.py").read_text() == "A = 1\n"
