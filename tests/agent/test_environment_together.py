"""Nodes whose requirements go together are one install; what does not go, or needs more than wheels, is done by itself."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings
from harness.package_index import PackageIndex
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Layer, Plan, Python
from provision_agent.host import answers, probe
from provision_agent.steps.python import layer_record, packages
from provision_agent.steps.python.locked_install import LockedInstalls
from provision_agent.steps.python.node_installs import NodeInstalls
from provision_agent.steps.python.together import File
from provision_agent.steps.python.venv import Venv

pytestmark = pytest.mark.usefixtures("noted_uv")

NO_GPU: dict[str, Any] = {"gpus": [], "cuda": None}
PYTHON = Python(
    installer="uv", timeout_s=5, retries=0, layers=(Layer(packages=("numpy<2",)),), protect=("numpy",)
)


@pytest.fixture
def index(index: PackageIndex) -> PackageIndex:
    index.add("einops", "0.8")
    index.add("gguf", "0.1", requires=["einops"])
    index.add("modern", "1.0", requires=["numpy>=2"])
    return index


class Nodes:
    """Nodes with requirements, beside a layer that is installed."""

    def __init__(self, here: Surroundings, venv: Venv, by_lock: LockedInstalls, tmp_path: Path) -> None:
        self.here, self.venv, self.calls = here, venv, tmp_path / "calls"
        packages.install(PYTHON, venv, here.context, NO_GPU, by_lock=by_lock)
        here.events.clear()
        self.calls.write_text("")
        plan = Plan(name="x", workspace=here.workspace, python=PYTHON)
        self._installs = NodeInstalls(plan, venv, here.context, by_lock=by_lock, known=None)

    def install(self, **texts: str) -> dict[str, Failure]:
        """Install nodes with these requirements, in this order; why some of them could not be."""
        files = [
            File(name, self.here.write(f"{name}/requirements.txt", text), "required")
            for name, text in texts.items()
        ]
        self._installs.install_together(files)
        failures = {}
        for file in files:
            try:
                self._installs.install(file)
            except Failure as failure:
                failures[file.item] = failure
        return failures

    def installs(self) -> list[str]:
        """The installs that uv was asked for."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith("pip install")]

    def versions(self) -> dict[str, str]:
        return probe.ask(self.venv.python, answers.Installed, timeout_s=60).versions

    def record(self, item: str) -> layer_record.LayerRecord:
        return layer_record.read(self.here.context, layer_record.key_of(self.venv.path, item))


@pytest.fixture
def nodes(
    index: PackageIndex, here: Surroundings, venv: Venv, by_lock: LockedInstalls, tmp_path: Path
) -> Nodes:
    return Nodes(here, venv, by_lock, tmp_path)


def test_what_goes_together_is_one_install_and_each_node_has_its_events_and_its_record(nodes: Nodes) -> None:
    failures = nodes.install(one="scipy\n", two="gguf\n", three="einops>=0.5\n")

    assert failures == {}
    assert len(nodes.installs()) == 1
    assert nodes.versions()["scipy"] == "1.0" and nodes.versions()["numpy"] == "1.26.4"
    for event in ("package_started", "package_finished"):
        assert [fields["item"] for fields in nodes.here.of(event)] == ["one", "two", "three"]
    assert nodes.record("one").brought == ("scipy",) and nodes.record("three").brought == ("einops",)
    assert nodes.record("two").versions == {"gguf": "0.1"}

    nodes.here.events.clear()
    assert nodes.install(one="scipy\n", two="gguf\n", three="einops>=0.5\n") == {}
    assert [fields["reason"] for fields in nodes.here.of("package_skipped")] == ["verified"] * 3
    assert len(nodes.installs()) == 1


def test_a_node_that_does_not_go_with_what_stands_is_installed_by_itself_without_its_bad_line(
    nodes: Nodes,
) -> None:
    failures = nodes.install(one="scipy\n", two="modern\neinops\n", three="gguf\n")

    assert failures == {}
    assert {"scipy", "gguf", "einops"} <= set(nodes.versions()) and "modern" not in nodes.versions()
    assert nodes.versions()["numpy"] == "1.26.4"
    told = [fields["message"] for fields in nodes.here.of("warning")]
    assert len(told) == 1 and told[0].startswith("two:1: `modern` is left out")
    assert sorted(fields["item"] for fields in nodes.here.of("package_started")) == ["one", "three", "two"]
    together = next(call for call in nodes.installs() if "scipy==1.0" in call)
    assert "gguf==0.1" in together


def test_a_node_that_cannot_be_built_takes_no_other_with_it(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    with tarfile.open(folder / "broken-1.0.tar.gz", "w:gz") as archive:
        for name, text in (
            ("PKG-INFO", "Metadata-Version: 2.2\nName: broken\nVersion: 1.0\n"),
            ("setup.py", "raise SystemExit('it does not build')\n"),
        ):
            entry = tarfile.TarInfo(f"broken-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    assert nodes.install(one="scipy\n", two="broken\n", three="gguf\n") == {}

    assert {"scipy", "gguf"} <= set(nodes.versions()) and "broken" not in nodes.versions()
    told = [fields["message"] for fields in nodes.here.of("warning")]
    assert len(told) == 1 and told[0].startswith("two:1: `broken` is left out")
    assert sorted(fields["item"] for fields in nodes.here.of("package_finished")) == ["one", "three", "two"]


def test_a_node_that_overwrites_what_is_protected_is_found_out_among_others(
    nodes: Nodes, index: PackageIndex
) -> None:
    index.add("clumsy", "1.0", files={"numpy/__init__.py": "raise ImportError('overwritten')\n"})

    assert nodes.install(one="scipy\n", two="clumsy\n") == {}

    told = [fields["message"] for fields in nodes.here.of("warning")]
    assert any("changed numpy 1.26.4" in message and "restoring" in message for message in told)
    harm = probe.ask(nodes.venv.python, answers.Damage, "numpy", timeout_s=60).harmed["numpy"]
    assert harm.changed == () and harm.missing == ()


def test_requirements_with_an_index_of_their_own_are_not_mixed_with_others(
    nodes: Nodes, index: PackageIndex
) -> None:
    index.add("special", "1.0", index="own")

    failures = nodes.install(
        one="scipy\n", two=f"--extra-index-url {index.base}/own\nspecial\n", three="gguf\n"
    )

    assert failures == {}
    assert {"scipy", "gguf", "special"} <= set(nodes.versions())
    assert not any("special" in call and "scipy" in call for call in nodes.installs())
