"""What package indexes have for an instance, asked before anything is fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.package_index import PackageIndex
from provision_agent.contract.findings import Facts, Gpu, PackageTold
from provision_agent.contract.plan import Layer, Plan, Python, Torch
from provision_agent.downloads import Sources
from provision_agent.host import detach
from provision_agent.steps.python import indexes
from provision_agent.steps.python.tags import Target
from provision_agent.steps.python.wheels import Wheels

HERE = Target((3, 11), "x86_64", (2, 36))
ADA = Facts(gpus=(Gpu("RTX 4090", "8.9"),), cuda="12.8")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with PackageIndex() as index:
        monkeypatch.setenv("PROVISION_TORCH_INDEX", f"{index.base}/whl")
        yield index


def wheels(*, target: Target = HERE, **settings: str) -> Wheels:
    named = {name.replace("_", "-"): value for name, value in settings.items()}
    return Wheels(Sources((), {}), named, target, until=time.monotonic() + 20)


def classes(row: PackageTold) -> list[tuple[str, str]]:
    return [(told.title, told.class_) for told in row.asked]


def test_the_torch_that_a_run_would_install_is_named_with_what_was_refused_before_it(
    index: PackageIndex,
) -> None:
    index.add_torch("2.9.1+cu128", index="whl/cu128")
    index.add_torch("2.9.1+cu126", index="whl/cu126")
    index.add_torch("2.7.1+cu128", index="whl/cu128")
    index.statuses["/whl/cu128/torch/torch-2.9.1"] = 403  # it is listed, and its store refuses it
    index.statuses["/whl/cu126/"] = 403

    row = wheels().of_torch(Torch(versions=("2.9.1", "2.7.1")), ADA)

    assert row.chosen == "torch 2.7.1+cu128"
    assert "the driver runs CUDA up to 12.8, the card is sm_89" in row.why
    assert classes(row) == [
        ("torch 2.9.1+cu128", "unauthorized"),
        ("torch 2.9.1+cu126", "unauthorized"),
        ("torch 2.7.1+cu128", "ok"),
    ]
    assert row.asked[-1].size_bytes > 100
    assert index.requests.count("/whl/cu128/torch/") == 1


def test_a_card_that_no_build_suits_is_refused_without_asking_anybody(index: PackageIndex) -> None:
    row = wheels().of_torch(Torch(versions=("2.5.1",)), Facts(gpus=(Gpu("RTX 5090", "12.0"),), cuda="12.8"))

    assert (row.chosen, row.asked[0].class_) == (None, "gpu")
    assert index.requests == []


def test_the_index_that_the_owner_configured_is_asked_first(index: PackageIndex, tmp_path: Path) -> None:
    index.add_torch("2.9.1+cpu", index="mirror")

    row = wheels(index_url=f"{index.base}/mirror").of_torch(Torch(versions=("2.9.1",)), Facts())

    assert (row.chosen, row.asked[0].url) == ("torch 2.9.1+cpu", f"{index.base}/mirror")


def test_a_package_is_there_at_its_version_or_the_version_is_named(index: PackageIndex) -> None:
    index.add("numpy", "2.1.0")
    ask = wheels(index_url=index.url).of_package
    found = {line: ask(line).asked[0] for line in ("numpy", "NumPy==2.1", "numpy==2.1.9", "nunpy", "numpy<3")}

    assert {line: told.class_ for line, told in found.items()} == {
        "numpy": "ok",
        "NumPy==2.1": "ok",
        "numpy==2.1.9": "not_found",
        "nunpy": "not_found",
        "numpy<3": "ok",
    }
    assert found["numpy==2.1.9"].message == "it has no numpy 2.1.9"
    assert "another version" in found["numpy==2.1.9"].hint


def test_an_index_that_nobody_serves_costs_its_bound_and_is_called_so(index: PackageIndex) -> None:
    told = wheels(index_url="http://user:secret@127.0.0.1:9/simple").of_package("numpy").asked[0]

    assert (told.class_, told.url) == ("unreachable", "http://127.0.0.1:9/simple")


def test_the_survey_of_an_instance_says_what_a_run_would_install(index: PackageIndex, tmp_path: Path) -> None:
    index.add_torch("2.9.1+cpu", index="whl/cpu")
    index.add("numpy", "2.1.0")
    layers = [
        Layer(packages=("numpy==2.1.0", "git+https://example.org/x", "einops")),
        Layer(torch=Torch(("2.9.1",), "cpu")),
    ]
    plan = Plan("p", workspace=str(tmp_path / "workspace"), python=Python(layers=tuple(layers)))
    request = {"plan": plan.to_json(), "is_instance": True, "packages": True}
    done = subprocess.run(
        detach.agent_argv("sources"),
        input=json.dumps(request).encode(),
        env={**os.environ, "PIP_INDEX_URL": index.url},
        stdout=subprocess.PIPE,
        timeout=25,
        check=True,
    )

    rows = json.loads(done.stdout.partition(b"provision-answer ")[2])["packages"]

    assert [(row["item"], row["chosen"]) for row in rows] == [
        ("numpy==2.1.0", "numpy==2.1.0"),
        ("einops", None),
        ("torch", "torch 2.9.1+cpu"),
    ]
    assert rows[-1]["present"] is None


def test_what_a_folder_of_wheels_may_have_is_not_called_missing_for_certain(index: PackageIndex) -> None:
    nowhere = wheels(index_url=index.url).of_package("einops")
    perhaps = wheels(index_url=index.url, find_links="/opt/wheels").of_package("einops")

    assert (nowhere.chosen, nowhere.is_certain) == (None, True)
    assert (perhaps.chosen, perhaps.is_certain) == (None, False)


FILES = {
    "any python and machine": ("a-1-py3-none-any.whl", True),
    "the old both": ("a-1-py2.py3-none-any.whl", True),
    "this very python": ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", True),
    "another python": ("a-1-cp310-cp310-manylinux_2_28_x86_64.whl", False),
    "a stable interface of an older python": ("a-1-cp38-abi3-manylinux2014_x86_64.whl", True),
    "a stable interface of a newer python": ("a-1-cp312-abi3-manylinux2014_x86_64.whl", False),
    "another machine": ("a-1-cp311-cp311-manylinux_2_28_aarch64.whl", False),
    "another system": ("a-1-cp311-cp311-macosx_11_0_arm64.whl", False),
    "a newer C library": ("a-1-cp311-cp311-manylinux_2_40_x86_64.whl", False),
    "two names of one platform": ("a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
    "musl": ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
    "plain linux": ("a-1-cp311-cp311-linux_x86_64.whl", True),
    "a build number": ("a-1-2-cp311-cp311-linux_x86_64.whl", True),
    "a source": ("a-1.tar.gz", True),
    "something else": ("a-1.exe", False),
}


@pytest.mark.parametrize("case", FILES.values(), ids=FILES.keys())
def test_a_file_fits_as_pip_would_say(case: tuple[str, bool]) -> None:
    file, fits = case

    assert HERE.takes(file) is fits


def test_this_interpreter_takes_what_its_own_pip_takes_and_nothing_of_another() -> None:
    """Held against pip's own list of tags, which is long."""
    tags = pytest.importorskip("packaging.tags")
    target = Target.of(f"{sys.version_info[0]}.{sys.version_info[1]}.9")
    own = {str(tag) for tag in tags.sys_tags()}
    newer = {str(tag) for tag in tags.cpython_tags((3, sys.version_info[1] + 1))}

    assert [tag for tag in own if not target.takes(f"a-1-{tag}.whl")] == []
    assert [tag for tag in newer - own if target.takes(f"a-1-{tag}.whl")] == []


def test_pips_own_files_say_where_packages_come_from_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: PackageIndex
) -> None:
    monkeypatch.delenv("PIP_CONFIG_FILE")
    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "XDG_CONFIG_DIRS" / "pip").mkdir(parents=True)
    (tmp_path / "XDG_CONFIG_DIRS" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://mirror/simple\nextra_index_url =\n  https://one\n  https://two\n"
    )
    (tmp_path / "pip.conf").write_text("[install]\ntrusted-host = mirror\nno-index = false\n")
    before = indexes.configured(str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "https://other/simple")

    after = indexes.configured(str(tmp_path))

    assert before["trusted-host"] == "mirror"
    assert indexes.urls(before) == ["https://mirror/simple", "https://one", "https://two"]
    assert indexes.urls(after)[0] == "https://other/simple"
    assert indexes.for_uv(after)["UV_INDEX_URL"] == "https://other/simple"
    assert "no-index" not in after
