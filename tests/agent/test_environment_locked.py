"""Resolved first, fetched by the engine, installed from the disk: with the real uv and an index on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.agent_runs import AgentRuns
from harness.downloads import eventually
from harness.environments import Surroundings, copy_of_environment
from harness.git_server import Origin
from harness.package_index import PackageIndex, wheel
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Layer, Plan, Python, Repo, Torch
from provision_agent.contract.plan_packages import LockedEnvironment, LockedWheel
from provision_agent.host import answers, probe
from provision_agent.steps.python import locked_install, packages
from provision_agent.steps.python.ahead import Ahead
from provision_agent.steps.python.locked_install import LockedInstalls
from provision_agent.steps.python.venv import Venv

pytestmark = pytest.mark.usefixtures("noted_uv")

NO_GPU: dict[str, Any] = {"gpus": [], "cuda": None}


def order(*layers: Layer, **fields: Any) -> Python:
    return Python(installer="uv", timeout_s=5, retries=0, layers=layers, **fields)


def versions_in(venv: Venv, *names: str) -> list[str]:
    code = f"from importlib.metadata import version; print(*map(version, {names!r}))"
    done = subprocess.run([venv.python, "-c", code], check=True, stdout=subprocess.PIPE, timeout=20)
    return done.stdout.decode().split()


def said(here: Surroundings) -> str:
    return "\n".join(str(fields["message"]) for fields in here.of("package_progress"))


def installs_of(tmp_path: Path) -> list[str]:
    """The installs that uv was asked for."""
    return [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("pip install")]


def test_wheels_come_by_the_engine_and_are_installed_without_a_network(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls, tmp_path: Path
) -> None:
    packages.install(order(Layer(packages=("scipy", "numpy<2"))), venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions_in(venv, "scipy", "numpy") == ["1.0", "1.26.4"]
    (call,) = installs_of(tmp_path)
    assert "--offline --no-index --no-deps" in call and call.endswith("numpy==1.26.4 scipy==1.0")
    assert 0 < by_lock.store.bytes_downloaded <= sum(index.wheel_bytes.values())
    assert sorted(index.wheel_bytes) == ["numpy-1.26.4-py3-none-any.whl", "scipy-1.0-py3-none-any.whl"]
    site = next(Path(venv.path).glob("lib/python3*/site-packages"))
    assert not (site / "numpy-1.26.4.dist-info" / "direct_url.json").exists()
    assert here.of("warning") == [] and here.names() == ["package_started", "package_finished"]


def test_wheels_are_gone_when_they_are_installed_unless_they_are_kept(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    by_lock.store.is_kept = True
    packages.install(order(Layer(packages=("scipy",))), venv, here.context, NO_GPU, by_lock=by_lock)
    kept = [path.name for path in Path(by_lock.store.folder).rglob("*.whl")]
    by_lock.store.is_kept = False
    index.add("sympy", "1.13")
    packages.install(order(Layer(packages=("sympy",))), venv, here.context, NO_GPU, by_lock=by_lock)

    assert sorted(kept) == ["numpy-2.1.0-py3-none-any.whl", "scipy-1.0-py3-none-any.whl"]
    eventually(lambda: not any("sympy" in path.name for path in Path(by_lock.store.folder).rglob("*.whl")))


def test_a_wheel_that_the_engine_cannot_fetch_is_the_installers_to_fetch_and_named(
    index: PackageIndex,
    here: Surroundings,
    venv: Venv,
    by_lock: LockedInstalls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(by_lock.store, "begin", lambda wheels, **fields: None)

    packages.install(order(Layer(packages=("scipy",))), venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions_in(venv, "scipy") == ["1.0"]
    assert "the installer fetches" in said(here) and "scipy-1.0-py3-none-any.whl" in said(here)


def test_a_wheel_that_is_not_the_one_that_its_index_tells_is_fetched_once_more_and_then_named(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    name = "numpy-2.1.0-py3-none-any.whl"
    index.add("numpy", "2.1.0", files={"numpy/data.txt": "all alike\n" * 100_000})
    index.hashes_told[name] = "0" * 64
    wanted = replace(order(Layer(packages=("numpy",))), installer="auto")

    with pytest.raises(Failure) as caught:
        packages.install(wanted, venv, here.context, NO_GPU, by_lock=by_lock)

    assert (caught.value.class_, len(here.of("package_retried"))) == ("checksum", 1)
    assert caught.value.hint.startswith("the index has a damaged file of the package, or another one than it")
    assert index.wheel_bytes[name] < 5.5 * 1_000_000, "the engine and uv, each of them twice"


def test_a_wheel_that_lacks_what_makes_it_one_is_no_conflict_of_versions(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    _, other = wheel("other", "1.0", {"other.py": ""})
    index.offer("broken-1.0-py3-none-any.whl", other)

    with pytest.raises(Failure) as caught:
        packages.install(order(Layer(packages=("broken",))), venv, here.context, NO_GPU, by_lock=by_lock)

    assert caught.value.hint.startswith("the index has a damaged file of the package"), caught.value


@pytest.mark.parametrize("installer", ["uv", "pip", "auto"])
def test_what_is_no_wheel_though_it_has_the_hash_of_its_index_is_called_damaged(
    installer: str, index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    index.offer("broken-1.0-py3-none-any.whl", b"this is no archive" * 1000)
    wanted = replace(order(Layer(packages=("broken",))), installer=installer)

    with pytest.raises(Failure) as caught:
        packages.install(wanted, venv, here.context, NO_GPU, by_lock=by_lock)

    assert caught.value.class_ == "command", caught.value
    assert caught.value.hint.startswith("the index has a damaged file of the package")


def test_where_the_answer_of_uv_cannot_be_read_the_installer_does_it_as_ever(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls, tmp_path: Path, uv: str
) -> None:
    """As where an index tells a size that no file has."""
    spoils = 'for each; do case $each in */pylock.resolve-*.toml) echo "size = 1e99" >>$each;; esac; done'
    (tmp_path / "bin" / "uv").write_text(f'#!/bin/sh\n{uv} "$@" || exit\n{spoils}\n')

    packages.install(order(Layer(packages=("scipy",))), venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions_in(venv, "scipy", "numpy") == ["1.0", "2.1.0"]
    assert "as ever, without a lock: what uv has resolved cannot be read" in said(here)


def test_the_interpreter_says_once_in_a_run_what_it_is_however_many_files_are_installed(
    index: PackageIndex,
    here: Surroundings,
    venv: Venv,
    by_lock: LockedInstalls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[type] = []

    def heard(python: str, kind: type, *names: str, ask: Any = probe.ask, **limits: Any) -> Any:
        asked.append(kind)
        return ask(python, kind, *names, **limits)

    monkeypatch.setattr(probe, "ask", heard)
    packages.install(order(), venv, here.context, NO_GPU, by_lock=by_lock)
    for name in ("numpy", "scipy"):
        path = here.write(f"{name}/requirements.txt", f"{name}\n")
        item = f"{name}/requirements.txt"
        packages.install_requirements(path, venv, here.context, order(), item, "required", by_lock=by_lock)

    assert versions_in(venv, "scipy") == ["1.0"]
    assert asked.count(answers.Interpreter) == 2, "once for the installs, once for what is offered to uv"


@pytest.mark.parametrize("is_the_systems", [True, False])
def test_certificates_that_pip_is_told_of_are_no_reason_against_the_engine_where_the_system_has_the_same(
    is_the_systems: bool,
    index: PackageIndex,
    here: Surroundings,
    venv: Venv,
    by_lock: LockedInstalls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = tmp_path / "authorities.pem"
    bundle.write_text("")
    (tmp_path / "link.pem").symlink_to(bundle)
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "link.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle if is_the_systems else tmp_path / "other.pem"))

    packages.install(order(Layer(packages=("scipy",))), venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions_in(venv, "scipy") == ["1.0"]
    assert (by_lock.store.bytes_downloaded > 0) == is_the_systems
    assert ("pip's own settings say how its index is reached" in said(here)) != is_the_systems


def test_what_is_installed_stays_at_its_version_where_that_fits(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    packages.install(order(Layer(packages=("numpy<2",))), venv, here.context, NO_GPU, by_lock=by_lock)
    packages.install(
        order(Layer(packages=("numpy<2",)), Layer(packages=("scipy",))),
        venv,
        here.context,
        NO_GPU,
        by_lock=by_lock,
    )

    assert versions_in(venv, "numpy", "scipy") == ["1.26.4", "1.0"]


def test_a_torch_that_no_index_has_is_offered_to_the_resolver_as_it_is(
    index: PackageIndex,
    here: Surroundings,
    venv: Venv,
    by_lock: LockedInstalls,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PROVISION_TORCH_INDEX", f"{index.base}/whl")
    index.add_torch("2.5.1+cpu", index="whl/cpu")
    index.add_torch("2.9.1")
    index.add("accelerate", "1.0", requires=["torch>=2"])
    layers = (Layer(torch=Torch(versions=("2.5.1",))), Layer(packages=("accelerate",)))

    packages.install(order(*layers), venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions_in(venv, "torch", "accelerate") == ["2.5.1+cpu", "1.0"]
    assert "--offline" in installs_of(tmp_path)[-1] and installs_of(tmp_path)[-1].endswith(" accelerate==1.0")
    assert "torch-2.9.1-py3-none-any.whl" not in index.wheel_bytes


def test_a_private_index_is_shown_its_login_by_the_engine_and_nothing_keeps_it(
    here: Surroundings, venv: Venv, by_lock: LockedInstalls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with PackageIndex(is_modern=True, login="reader:pass word") as private:
        private.add("secretive", "1.0")
        url = private.url.replace("://", "://reader:pass%20word@")
        monkeypatch.setenv("PIP_INDEX_URL", url)

        packages.install(order(Layer(packages=("secretive",))), venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions_in(venv, "secretive") == ["1.0"]
    assert by_lock.store.bytes_downloaded > 0
    assert all("--offline" in call for call in installs_of(tmp_path))
    state = Path(here.workspace, ".provision")
    files = [path for path in state.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert not any(b"pass%20word" in path.read_bytes() or b"pass word" in path.read_bytes() for path in files)


def test_wheels_in_a_folder_are_installed_from_there(
    index: PackageIndex,
    here: Surroundings,
    venv: Venv,
    by_lock: LockedInstalls,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "own wheels"
    folder.mkdir()
    name, data = wheel("local", "3.0", {"local.py": ""}, ["numpy"])
    (folder / name).write_bytes(data)

    packages.install(
        order(Layer(packages=(f"--find-links={folder}", "local"))),
        venv,
        here.context,
        NO_GPU,
        by_lock=by_lock,
    )

    assert versions_in(venv, "local", "numpy") == ["3.0", "2.1.0"]
    assert (folder / name).exists()
    assert all("--offline" in call for call in installs_of(tmp_path))


def test_a_layer_that_conflicts_fails_with_the_sentence_of_uv(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    index.add("old", "1.0", requires=["numpy<1"])
    with pytest.raises(Failure, match=r"numpy>=1.26.4 is available|numpy<1") as caught:
        packages.install(order(Layer(packages=("old",))), venv, here.context, NO_GPU, by_lock=by_lock)

    assert caught.value.class_ in ("conflict", "not_found")


def test_the_wheels_of_a_lock_are_installed_while_others_still_come(
    index: PackageIndex,
    here: Surroundings,
    venv: Venv,
    by_lock: LockedInstalls,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(locked_install, "BATCH_BYTES", 1)
    index.add("slow", "1.0", files={"slow/__init__.py": "", "slow/data": "x" * (1 << 20)})
    index.bytes_per_s = 1 << 20
    chosen = {"slow": "1.0", "numpy": "1.26.4"}
    wheels = [LockedWheel(name, version, *index.offered(name, version)) for name, version in chosen.items()]
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    lock = LockedEnvironment(python, f"linux-{os.uname().machine}", "none", tuple(wheels))

    wanted = replace(order(Layer(packages=("slow", "numpy"))), locked=lock)
    packages.install(wanted, venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions_in(venv, *chosen) == list(chosen.values())
    first, *_, last = installs_of(tmp_path)
    assert "numpy==1.26.4" in first and "slow==" not in first
    assert last.endswith("slow==1.0")


def test_what_an_interrupted_install_left_unfinished_is_taken_away_and_installed_again(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    """A package that nobody names, whose last file is missing: its metadata says that it is installed."""
    wanted = order(Layer(packages=("scipy",)))
    packages.install(wanted, venv, here.context, NO_GPU, by_lock=by_lock)
    site = next(Path(venv.path).glob("lib/python3*/site-packages"))
    (site / "numpy" / "__init__.py").unlink()
    here.context.state.forget("layer", f"{venv.path}:scipy")
    here.context.state.put("installing", venv.python, {"names": ["numpy"]})

    packages.install(wanted, venv, here.context, NO_GPU, by_lock=by_lock)

    assert (site / "numpy" / "__init__.py").exists()
    assert [fields["message"] for fields in here.of("warning")] == [
        "an install was interrupted and left numpy unfinished: removing it"
    ]
    assert here.context.state.get("installing", venv.python) is None


def test_a_line_of_a_node_that_does_not_fit_is_left_out_and_named_and_the_rest_is_installed(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    wanted = order(Layer(packages=("numpy==2.1.0",)), protect=("numpy",))
    packages.install(wanted, venv, here.context, NO_GPU, by_lock=by_lock)
    index.add("sympy", "1.13")
    index.add("tqdm", "4.0")
    lines = "sympy  # wanted\nnumpy<2\nno-such-package==1.0\n\ntqdm>=4\nscipy\n"
    path = here.write("node/requirements.txt", lines)

    for _ in range(2):
        packages.install_requirements(
            path, venv, here.context, wanted, "node/requirements.txt", "required", by_lock=by_lock
        )

    assert versions_in(venv, "numpy", "sympy", "tqdm", "scipy") == ["2.1.0", "1.13", "4.0", "1.0"]
    warnings = [str(fields["message"]) for fields in here.of("warning")]
    assert [warning.partition(" is left out: ")[0] for warning in warnings] == [
        "node/requirements.txt:2: `numpy<2`",
        "node/requirements.txt:3: `no-such-package==1.0`",
    ]
    assert all(warning.partition(" is left out: ")[2] for warning in warnings)
    assert here.names()[-2:] == ["package_started", "package_skipped"]


def test_a_node_cannot_take_from_a_layer_or_an_earlier_node_what_it_asked_for(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    """Not even through what the layer's package needs."""
    plan = Plan(name="x", workspace=here.workspace, python=order(Layer(packages=("scipy>=1",))))
    by_lock.look_ahead = Ahead(plan, here.context, lambda repo: None)
    index.add("scipy", "1.5", requires=["tokens>=3"])
    for version in ("2.0", "3.0", "4.0"):
        index.add("tokens", version)
    assert plan.python is not None
    packages.install(plan.python, venv, here.context, NO_GPU, by_lock=by_lock)
    for name, text in (("a", "tokens<4\n"), ("b", "tokens==2.0\n"), ("c", "tokens>=4\n")):
        path = here.write(f"{name}/requirements.txt", text)
        packages.install_requirements(
            path, venv, here.context, plan.python, f"{name}/requirements.txt", "required", by_lock=by_lock
        )

    assert versions_in(venv, "scipy", "tokens") == ["1.5", "3.0"]
    warnings = [str(fields["message"]).partition(" is left out")[0] for fields in here.of("warning")]
    assert warnings == ["b/requirements.txt:1: `tokens==2.0`", "c/requirements.txt:1: `tokens>=4`"]


def test_what_layers_and_nodes_want_is_resolved_together_and_fetched_before_it_is_needed(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls
) -> None:
    node = Repo(url="https://host/node.git", path="node", install="requirements.txt")
    plan = Plan(name="x", workspace=here.workspace, python=order(Layer(packages=("numpy",))), repos=(node,))
    path = here.write("node/requirements.txt", "numpy<2\nscipy\n")
    by_lock.look_ahead = Ahead(plan, here.context, lambda repo: True)
    assert plan.python is not None

    packages.install(plan.python, venv, here.context, NO_GPU, by_lock=by_lock)
    assert versions_in(venv, "numpy") == ["1.26.4"]
    eventually(lambda: "scipy-1.0-py3-none-any.whl" in index.wheel_bytes)
    packages.install_requirements(
        path, venv, here.context, plan.python, "node/requirements.txt", "required", by_lock=by_lock
    )

    assert versions_in(venv, "numpy", "scipy") == ["1.26.4", "1.0"]
    assert "numpy-2.1.0-py3-none-any.whl" not in index.wheel_bytes


def test_layers_are_resolved_and_fetched_while_their_environment_is_still_being_made(
    index: PackageIndex, here: Surroundings, by_lock: LockedInstalls, tmp_path: Path
) -> None:
    plan = Plan(name="x", workspace=here.workspace, python=order(Layer(packages=("scipy",))))
    by_lock.look_ahead = Ahead(plan, here.context, lambda repo: None)
    path = str(tmp_path / "coming")
    assert plan.python is not None

    coming = Venv(path, sys.executable, True)
    packages.look_ahead(plan.python, coming, here.context, by_lock)
    eventually(lambda: "scipy-1.0-py3-none-any.whl" in index.wheel_bytes)
    assert not Path(path).exists()
    copy_of_environment(path)
    made = Venv(path, f"{path}/bin/python", True)
    packages.install(plan.python, made, here.context, NO_GPU, by_lock=by_lock)

    assert versions_in(made, "numpy", "scipy") == ["2.1.0", "1.0"]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[:2] for call in calls] == [["pip", "compile"], ["pip", "install"]]


def test_nothing_is_resolved_before_the_environment_is_there_that_torch_or_a_checkout_has_a_say_in(
    here: Surroundings,
) -> None:
    def may(*layers: Layer) -> bool:
        plan = Plan(name="x", workspace=here.workspace, python=order(*layers))
        return Ahead(plan, here.context, lambda repo: None).may_begin_early()

    plain = Layer(packages=("numpy",))
    assert may(plain)
    assert not may()
    assert not may(plain, Layer(torch=Torch()))
    assert not may(plain, Layer(requirements="ComfyUI/requirements.txt"))


def test_of_packages_that_bring_the_same_files_one_is_fetched_and_the_others_are_held_by_it(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls, tmp_path: Path
) -> None:
    for name in ("opencv-python", "opencv-python-headless"):
        index.add(name, "4.11", files={"cv2/__init__.py": f"by = {name!r}\n"}, requires=["numpy"])
    wanted = order(Layer(packages=("opencv-python", "opencv-python-headless", "scipy")))

    packages.install(wanted, venv, here.context, NO_GPU, by_lock=by_lock)
    again = len(installs_of(tmp_path))
    packages.install(wanted, venv, here.context, NO_GPU, by_lock=by_lock)

    assert versions_in(venv, "opencv-python", "opencv-python-headless") == ["4.11", "4.11"]
    told = subprocess.run([venv.python, "-B", "-c", "import cv2; print(cv2.by)"], stdout=-1, check=True)
    assert told.stdout.decode().strip() == "opencv-python-headless"
    assert not any(name.startswith("opencv_python-") for name in index.wheel_bytes)
    assert "opencv-python is not installed, since opencv-python-headless has the same files" in said(here)
    assert len(installs_of(tmp_path)) == again == 1
    assert here.names()[-2:] == ["package_started", "package_skipped"]


@pytest.mark.parametrize("needs_screen", [True, False])
def test_the_one_that_holds_others_gives_way_to_its_like_where_it_needs_a_screen(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls, needs_screen: bool
) -> None:
    for name in ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"):
        is_in_need = needs_screen and not name.endswith("headless")
        text = "raise ImportError('libGL.so.1')\n" if is_in_need else f"by = {name!r}\n"
        index.add(name, "4.11", files={"cv2/__init__.py": text})
    wanted = order(Layer(packages=("opencv-python", "opencv-contrib-python")))

    packages.install(wanted, venv, here.context, NO_GPU, by_lock=by_lock)

    told = subprocess.run([venv.python, "-B", "-c", "import cv2; print(cv2.by)"], stdout=-1, check=True)
    suffix = "-headless" if needs_screen else ""
    assert told.stdout.decode().strip() == f"opencv-contrib-python{suffix}"
    assert versions_in(venv, "opencv-python", "opencv-contrib-python") == ["4.11", "4.11"]
    for held in Path(venv.path).glob("lib/python3*/site-packages/*/HELD_BY"):
        assert held.read_text().strip() == f"opencv-contrib-python{suffix}"


@pytest.mark.timeout(240)
def test_a_run_brings_layers_and_nodes_by_the_engine_and_keeps_wheels_where_the_plan_says(
    index: PackageIndex, tmp_path: Path
) -> None:
    origin = Origin(str(tmp_path / "origin"))
    origin.commit({"requirements.txt": "scipy\nno-such-package\n"})
    runs = AgentRuns(tmp_path)
    plan = {
        "python": {
            "venv": "venv",
            "installer": "uv",
            "layers": [{"packages": ["numpy<2"]}],
            "wheels": str(tmp_path / "volume"),
        },
        "repos": [{"url": origin.url, "path": "node", "install": "requirements.txt"}],
    }

    told = runs.run(plan)
    kept = sorted(path.name for path in (tmp_path / "volume").rglob("*") if path.is_file())
    asked = dict(index.wheel_bytes)
    subprocess.run(["rm", "-r", str(runs.workspace)], check=True)
    again = runs.run(plan)

    assert (told.verdict, again.verdict) == ("complete", "complete")
    warnings = [str(event["message"]).partition(" is left out: ")[0] for event in told.of("warning")]
    assert warnings == ["node/requirements.txt:2: `no-such-package`"]
    assert kept == ["numpy-1.26.4-py3-none-any.whl", "scipy-1.0-py3-none-any.whl"]
    assert told.events[-1]["bytes_downloaded"] > 0 and again.events[-1]["bytes_downloaded"] == 0
    assert index.wheel_bytes == asked
    venv = Venv("", str(runs.workspace / "venv/bin/python"), False)
    assert versions_in(venv, "numpy", "scipy") == ["1.26.4", "1.0"]
