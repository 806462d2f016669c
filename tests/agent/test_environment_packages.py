"""Layers, protection and mending, with the real pip, a real environment and an index on loopback."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings
from harness.package_index import PackageIndex
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Layer, Python
from provision_agent.steps.progress import EVERY_S, Progress
from provision_agent.steps.python import installer, packages
from provision_agent.steps.python.last_look import EarlyLook, LastLook
from provision_agent.steps.python.venv import Venv

NO_GPU: dict[str, Any] = {"gpus": [], "cuda": None}


@pytest.fixture
def index(bare_pip: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        index.add("numpy", "1.26.4")
        index.add("numpy", "2.1.0")
        index.add("sympy", "1.13")
        yield index


def python(*layers: Layer, **fields: Any) -> Python:
    return Python(installer="pip", timeout_s=5, retries=0, layers=layers, **fields)


def version_in(venv: Venv, name: str) -> str:
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return (
        subprocess.run([venv.python, "-c", code], check=True, stdout=subprocess.PIPE, timeout=20)
        .stdout.decode()
        .strip()
    )


def test_layers_are_installed_in_order_and_a_second_run_asks_the_index_nothing(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    order = python(Layer(packages=("numpy<2",)), Layer(packages=("sympy",)))

    packages.install(order, venv, here.context, NO_GPU)
    asked = len(index.requests)
    packages.install(order, venv, here.context, NO_GPU)

    assert version_in(venv, "numpy") == "1.26.4"
    assert [f["item"] for f in here.of("package_finished")] == ["numpy", "sympy"]
    assert [f["reason"] for f in here.of("package_skipped")] == ["verified", "verified"]
    assert len(index.requests) == asked


def test_a_package_that_was_replaced_behind_the_back_is_installed_again(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    order = python(Layer(packages=("numpy<2",)))
    packages.install(order, venv, here.context, NO_GPU)
    subprocess.run([venv.python, "-m", "pip", "install", "-q", "numpy==2.1.0"], check=True, timeout=20)

    packages.install(order, venv, here.context, NO_GPU)

    assert version_in(venv, "numpy") == "1.26.4"


def test_requirements_without_a_newline_at_their_end_stay_two_names(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    index.add("onnxruntime-gpu", "1.0")
    index.add("insightface", "2.0")
    first = here.write("a/requirements.txt", "\ufeffonnxruntime-gpu")
    second = here.write("b/requirements.txt", "insightface\r\n")
    for path in (first, second):
        packages.install_requirements(path, venv, here.context, python(), path, "required")

    assert version_in(venv, "onnxruntime-gpu") == "1.0"
    assert version_in(venv, "insightface") == "2.0"


def test_a_requirement_that_would_replace_a_protected_package_is_left_out_and_named(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    order = python(Layer(packages=("numpy==2.1.0",)), protect=("NumPy",))
    packages.install(order, venv, here.context, NO_GPU)
    path = here.write("node/requirements.txt", "numpy==1.26.4\nsympy\n")

    packages.install_requirements(path, venv, here.context, order, "node/requirements.txt", "required")

    (warning,) = [fields["message"] for fields in here.of("warning")]
    assert warning.startswith("node/requirements.txt:1: `numpy==1.26.4` is left out: ")
    assert (version_in(venv, "numpy"), version_in(venv, "sympy")) == ("2.1.0", "1.13")


def test_a_protected_package_that_an_install_script_replaced_is_restored_and_the_culprit_named(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    """A wheel that writes over another one's files gets past every constraint."""
    order = python(Layer(packages=("numpy==2.1.0",)), protect=("numpy",))
    packages.install(order, venv, here.context, NO_GPU)
    smuggled = {"numpy-2.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n"}
    index.add("evil", "1.0", files={f"evil-1.0.data/purelib/{path}": text for path, text in smuggled.items()})
    path = here.write("node/requirements.txt", "evil")

    packages.install_requirements(path, venv, here.context, order, "node/requirements.txt", "required")

    assert version_in(venv, "numpy") == "2.1.0"
    assert any("node/requirements.txt replaced numpy 2.1.0" in f["message"] for f in here.of("warning"))


def test_a_protected_package_whose_files_another_one_overwrote_is_restored_and_the_culprit_named(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    order = python(Layer(packages=("numpy==2.1.0",)), protect=("numpy",))
    packages.install(order, venv, here.context, NO_GPU)
    broken = {"numpy/__init__.py": "raise ImportError('numpy.core.multiarray failed to import')\n"}
    index.add("breaker", "1.0", files=broken)
    path = here.write("node/requirements.txt", "breaker")

    packages.install_requirements(path, venv, here.context, order, "node/requirements.txt", "required")

    subprocess.run([venv.python, "-c", "import numpy"], check=True, timeout=20)
    (warning,) = [fields["message"] for fields in here.of("warning")]
    assert warning == "node/requirements.txt changed numpy 2.1.0 (numpy/__init__.py): restoring"


def test_what_the_plan_does_not_want_is_removed_before_the_first_layer(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    index.add("xformers", "0.1")
    subprocess.run([venv.python, "-m", "pip", "install", "-q", "xformers"], check=True, timeout=20)

    packages.install(
        python(Layer(packages=("sympy",)), remove=("xformers", "torchao")), venv, here.context, NO_GPU
    )

    with pytest.raises(subprocess.CalledProcessError):
        version_in(venv, "xformers")


def test_an_unknown_version_fails_at_once_with_the_command_to_repeat(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    with pytest.raises(Failure) as caught:
        packages.install(python(Layer(packages=("numpy==9",))), venv, here.context, NO_GPU)

    assert caught.value.class_ == "not_found"
    assert f"{venv.python} -m pip install" in caught.value.hint
    assert here.of("package_retried") == []
    assert [f["item"] for f in here.of("package_failed")] == ["numpy"]


def test_an_index_that_cannot_be_reached_is_tried_three_times_and_called_network_trouble(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    order = Python(installer="pip", timeout_s=5, retries=1, layers=(Layer(packages=("numpy",)),))

    with pytest.raises(Failure) as caught:
        packages.install(order, venv, here.context, NO_GPU)

    assert caught.value.class_ == "network"
    assert caught.value.retriable
    assert [f["attempt"] for f in here.of("package_retried")] == [2, 3]


def test_leftovers_of_an_interrupted_install_are_removed_and_the_package_installed_again(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    order = python(Layer(packages=("numpy==2.1.0",)))
    packages.install(order, venv, here.context, NO_GPU)
    site = next(Path(venv.path).glob("lib/python3*/site-packages"))
    (site / "~orch").mkdir()
    (site / "numpy-2.1.0.dist-info" / "RECORD").unlink()

    packages.install(order, venv, here.context, NO_GPU)

    assert not (site / "~orch").exists()
    assert (site / "numpy-2.1.0.dist-info" / "RECORD").exists()
    assert any("left" in f["message"] and "~orch" in f["message"] for f in here.of("warning"))


def test_a_protected_package_with_a_missing_file_is_healed_though_no_layer_names_it(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    index.add("core", "1.0", requires=["numpy<2"])
    order = python(Layer(packages=("core",)), protect=("numpy",))
    packages.install(order, venv, here.context, NO_GPU)
    module = next(Path(venv.path).glob("lib/python3*/site-packages/numpy/__init__.py"))
    module.unlink()

    packages.install(order, venv, here.context, NO_GPU)

    assert module.exists()
    assert version_in(venv, "numpy") == "1.26.4"


@pytest.mark.timeout(180)
def test_an_environment_that_cannot_be_mended_is_made_again_when_it_is_ours(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    order = python(Layer(packages=("core",)), protect=("numpy",))
    index.add("core", "1.0", requires=["numpy"])
    packages.install(order, venv, here.context, NO_GPU)
    next(Path(venv.path).glob("lib/python3*/site-packages/numpy/__init__.py")).write_text(
        "raise ImportError('no _multiarray')"
    )
    index.statuses["/simple/numpy/numpy-2.1.0"] = 404
    index.add("numpy", "2.2.0")
    here.context.state.put("venv", venv.path, {"is_ours": True})

    packages.install(
        order, venv, here.context, {"gpus": [], "pythons": [{"path": venv_base(venv), "version": "3.11"}]}
    )

    assert any("making" in f["message"] and "again" in f["message"] for f in here.of("warning"))
    assert (version_in(venv, "core"), version_in(venv, "numpy")) == ("1.0", "2.2.0")


def test_an_old_pip_that_cannot_be_updated_is_a_warning(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "OLDEST_PIP", 999)
    left = here.write(".provision/cache/tmp/pip-unpack-1/torch.whl")

    packages.install(python(Layer(packages=("sympy",))), venv, here.context, NO_GPU)

    assert "is old and cannot be updated" in here.of("warning")[0]["message"]
    assert version_in(venv, "sympy") == "1.13"
    assert not os.path.exists(left)


def offer_uv(index: PackageIndex, script: str) -> None:
    """An index that has a uv, which is *script*."""
    index.add("uv", "1.0", files={"uv-1.0.data/scripts/uv": f"#!/bin/sh\n{script}\n"})


@pytest.mark.parametrize("installer", ["auto", "uv"])
def test_uv_is_fetched_once_and_installs_under_the_same_protection(
    installer: str, index: PackageIndex, here: Surroundings, venv: Venv, uv: str
) -> None:
    offer_uv(index, f'echo "$@" >>{here.workspace}/calls; exec {uv} "$@"')
    layers = (Layer(packages=("numpy==1.26.4",)), Layer(packages=("sympy",)))
    order = Python(installer=installer, timeout_s=5, retries=0, layers=layers, protect=("numpy",))
    for _ in range(2):
        packages.install(order, venv, here.context, NO_GPU)
    path = here.write("node/requirements.txt", "numpy==2.1.0")

    packages.install_requirements(path, venv, here.context, order, "node/requirements.txt", "required")

    (warning,) = [fields["message"] for fields in here.of("warning")]
    assert warning.startswith("node/requirements.txt:1: `numpy==2.1.0` is left out: ")
    assert (version_in(venv, "numpy"), version_in(venv, "sympy")) == ("1.26.4", "1.13")
    assert index.requests.count("/simple/uv/") == 1
    calls = Path(here.workspace, "calls").read_text().splitlines()
    assert [call.split()[:2] for call in calls] == [["--version"], *[["pip", "install"]] * 4]
    assert [" --dry-run " in call for call in calls] == [False, False, False, False, True]
    with pytest.raises(subprocess.CalledProcessError):
        version_in(venv, "uv")


def test_an_installer_knows_its_bounds_and_keeps_its_files_on_the_workspaces_disk(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    offer_uv(index, f"env >{here.workspace}/environment")

    packages.install(
        Python(timeout_s=77, retries=4, layers=(Layer(packages=("sympy",)),)), venv, here.context, NO_GPU
    )

    lines = Path(here.workspace, "environment").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    bounds = {
        "PIP_DEFAULT_TIMEOUT": "77",
        "PIP_RETRIES": "4",
        "UV_HTTP_TIMEOUT": "77",
        "UV_HTTP_RETRIES": "4",
    }
    assert {name: told[name] for name in bounds} == bounds
    for name in ("TMPDIR", "PIP_CACHE_DIR", "UV_CACHE_DIR"):
        assert told[name].startswith(f"{here.workspace}/.provision/")


def test_a_layer_may_begin_with_options_of_the_installer(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    index.add("core", "1.0", requires=["numpy"])

    packages.install(python(Layer(packages=("--no-deps", "core"))), venv, here.context, NO_GPU)

    assert version_in(venv, "core") == "1.0"
    with pytest.raises(subprocess.CalledProcessError):
        version_in(venv, "numpy")


def test_a_step_whose_child_is_silent_says_how_much_has_landed(here: Surroundings) -> None:
    an_hour_ago = time.time() - 3600
    os.utime(here.write("landing/before", "x" * 5_000_000), (an_hour_ago, an_hour_ago))
    with Progress(
        here.context, "torch", "critical", watched=f"{here.workspace}/landing", every_s=0.1
    ) as progress:
        progress.line("Downloading torch (900 MB)")
        here.write("landing/wheel", "x" * 2_000_000)
        end = time.monotonic() + 10
        while len(here.of("package_progress")) < 2 and time.monotonic() < end:
            time.sleep(0.02)

    assert EVERY_S < 10
    assert (
        "Downloading torch (900 MB) · 2.0 MB on the disk so far" in here.of("package_progress")[-1]["message"]
    )


def test_what_uv_cannot_do_pip_does_unless_the_profile_wants_uv(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    offer_uv(index, '[ "$1" = --version ] || { echo "error: strange metadata"; exit 2; }')
    layers = (Layer(packages=("numpy==1.26.4",)),)

    packages.install(Python(timeout_s=5, retries=0, layers=layers), venv, here.context, NO_GPU)
    with pytest.raises(Failure) as caught:
        order = Python(installer="uv", retries=0, layers=(Layer(packages=("sympy",)),))
        packages.install(order, venv, here.context, NO_GPU)

    assert version_in(venv, "numpy") == "1.26.4"
    assert any("pip tries" in fields["message"] for fields in here.of("warning"))
    assert "strange metadata" in caught.value.message


def test_a_uv_that_cannot_be_had_is_an_error_only_where_it_is_wanted(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    layers = (Layer(packages=("sympy",)),)
    with pytest.raises(Failure) as caught:
        packages.install(Python(installer="uv", layers=layers), venv, here.context, NO_GPU)

    packages.install(Python(retries=0, layers=layers), venv, here.context, NO_GPU)

    assert caught.value.class_ == "not_found"
    assert "set `installer: auto`" in caught.value.hint
    assert version_in(venv, "sympy") == "1.13"
    assert here.of("warning") == []


def venv_base(venv: Venv) -> str:
    return os.path.realpath(venv.python)


def test_a_layer_that_something_later_in_the_run_undid_is_looked_at_by_the_next_run(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    plan = python(Layer(packages=("numpy", "sympy")))
    path = here.write("node/requirements.txt", "numpy<2\n")
    first = LastLook(plan, venv, here.context, NO_GPU)
    packages.install(plan, venv, here.context, NO_GPU)
    first.did_layers()
    packages.install_requirements(path, venv, here.context, plan, "node/requirements.txt", "required")
    first.did("node/requirements.txt", path)
    first.renew()
    found = Venv(venv.path, venv.python, False)

    second = LastLook(plan, found, here.context, NO_GPU)

    assert second.is_unchanged
    assert second.skips("node/requirements.txt", path, "required")
    assert not second.skips_layers(), "the node has replaced its numpy"
    other_driver = {**NO_GPU, "driver": "570.1"}
    assert not LastLook(plan, found, here.context, other_driver).is_unchanged


def test_a_look_that_began_before_its_environment_was_prepared_is_that_of_no_other_and_of_no_new_one(
    index: PackageIndex, here: Surroundings, venv: Venv, tmp_path: Path
) -> None:
    plan = replace(python(Layer(packages=("numpy",))), venv=venv.path)
    first = LastLook(plan, venv, here.context, NO_GPU)
    packages.install(plan, venv, here.context, NO_GPU)
    first.did_layers()
    first.renew()
    as_it_was, made_anew = (Venv(venv.path, venv.python, is_new) for is_new in (False, True))
    elsewhere = Venv(str(tmp_path / "other"), venv.python, False)

    early = EarlyLook(plan, here.context, NO_GPU)

    assert early.at(as_it_was).is_unchanged and early.at(as_it_was) is early.at(as_it_was)
    assert not early.at(made_anew).is_unchanged
    assert not early.at(elsewhere).is_unchanged
