"""Packages with code for the GPU: the wheel that fits, or none; no build that cannot end well."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.agent_runs import AgentRuns
from harness.content import Content
from harness.environments import Surroundings, copy_of_environment
from harness.file_server import FileServer
from harness.package_index import PackageIndex, wheel
from provision_agent.contract.failures import Failure
from provision_agent.contract.findings import Facts, Gpu
from provision_agent.contract.plan import Layer, Plan, Python, Torch
from provision_agent.contract.plan_packages import CompiledPackage
from provision_agent.downloads import Sources
from provision_agent.steps.python import compiled, packages, pip_errors
from provision_agent.steps.python.compiled import Build
from provision_agent.steps.python.tags import Target, name_of
from provision_agent.steps.python.venv import Venv

MACHINE = os.uname().machine
PYTHONS, TORCHES, CUDAS, CARDS = (
    ("3.10.14", "3.11.9", "3.12.4"),
    ("2.8.0", "2.9.1"),
    ("12.8", "13.0"),
    ("8.6", "8.9", "12.0"),
)
ABSENT = {("3.12.4", "2.8.0", "12.8", "8.6"), ("3.10.14", "2.9.1", "13.0", "12.0")}
"""For these nobody has built a wheel; nor for torch 2.8 with CUDA 13.0, which there is not."""


def file_of(python: str, torch: str, cuda: str, capability: str) -> str:
    """As those who build such wheels name them."""
    tag = "cp" + "".join(python.split(".")[:2])
    short, card = ".".join(torch.split(".")[:2]), capability.replace(".", "")
    return f"sage-2.2.0+cu{cuda.replace('.', '')}torch{short}sm{card}-{tag}-{tag}-linux_{MACHINE}.whl"


ALL = [(p, t, c, s) for p in PYTHONS for t in TORCHES for c in CUDAS for s in CARDS]
HAVE = [each for each in ALL if each not in ABSENT and each[1:3] != ("2.8.0", "13.0")]


@pytest.fixture(scope="module")
def shop() -> Iterator[FileServer]:
    """A server with a wheel for most of the combinations."""
    _, data = wheel("sage", "2.2.0", {"sage/__init__.py": ""})
    with FileServer() as server:
        for each in HAVE:
            server.add(f"/{file_of(*each)}", Content.of(data))
        yield server


def sage(shop: FileServer, **fields: Any) -> CompiledPackage:
    own = "/sage-2.2.0+{cuda}torch{torch}sm{capability}-{python}-{python}-{platform}.whl"
    other = "/elsewhere/sage-2.2.0+{cuda}torch{torch_version}-{python}-{python}-linux_{machine}.whl"
    return CompiledPackage("sage", (shop.url(other), shop.url(own)), **fields)


@pytest.mark.parametrize("combination", ALL, ids="-".join)
def test_the_wheel_for_python_torch_cuda_and_card_is_taken_or_none(
    combination: tuple[str, str, str, str], shop: FileServer, here: Surroundings
) -> None:
    build = Build(*combination, MACHINE)

    found = compiled.choose(sage(shop), build, Sources((), {}), here.context)

    if combination in HAVE:
        assert found.url is not None and name_of(found.url) == file_of(*combination)
        assert Target.of(build.python).takes(name_of(found.url))
        assert [each.class_ for each in found.asked] == ["not_found", "ok"]
    else:
        assert (found.url, found.unreached) == (None, None)
        assert found.why.startswith(f"there is no prebuilt wheel of sage for {build.title}: ")
        assert [each.class_ for each in found.asked] == ["not_found", "not_found"]


def test_what_is_not_known_here_and_what_is_for_another_python_is_not_asked_for(here: Surroundings) -> None:
    package = CompiledPackage(
        "sage",
        ("http://127.0.0.1:1/a-1-sm{capability}.whl", "http://127.0.0.1:1/a-1-cp38-cp38-linux_x86_64.whl"),
    )

    found = compiled.choose(package, Build("3.11.9", "2.9.1", "", "", MACHINE), Sources((), {}), here.context)

    assert (found.url, found.asked, found.unreached) == (None, (), None)
    assert "needs {capability}, which is not known here" in found.why
    assert "a-1-cp38-cp38-linux_x86_64.whl is for another Python or machine by its name" in found.why


def test_a_place_that_cannot_be_reached_is_no_proof_that_there_is_none(here: Surroundings) -> None:
    package = CompiledPackage("sage", ("http://127.0.0.1:1/sage-1-py3-none-any.whl",))

    found = compiled.choose(
        package, Build("3.11.9", "2.9.1", "12.8", "8.9", MACHINE), Sources((), {}), here.context
    )

    assert found.url is None and found.unreached is not None and found.unreached.retriable


def test_the_lowest_card_and_the_torch_that_will_be_there_decide() -> None:
    facts = Facts(gpus=(Gpu("a", "12.0"), Gpu("b", "8.9"), Gpu("c", None)), cuda="12.8")
    python = Python(layers=(Layer(torch=Torch(("2.9.1",))),))

    build = compiled.build_to_be(python, "3.11.9", None, facts)

    assert build == Build("3.11.9", "2.9.1", "12.8", "8.9", MACHINE)
    assert build.values()["abi"] == "TRUE"
    assert compiled.build_to_be(Python(), "3.11.9", "2.7.1+cu126", facts).cuda == "12.6"


def test_torch_itself_says_with_what_cuda_it_was_built(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages" / "torch"
    site.mkdir(parents=True)

    by_name = compiled.cuda_at(str(tmp_path), {"torch": "2.9.1+cu130"})
    by_company = compiled.cuda_at(str(tmp_path), {"torch": "2.9.1", "nvidia-cuda-runtime-cu12": "12.8.90"})
    (site / "version.py").write_text("__version__ = '2.9.1'\ncuda: Optional[str] = '12.6'\nhip = None\n")

    assert (by_name, by_company) == ("13.0", "12.8")
    assert compiled.cuda_at(str(tmp_path), {"torch": "2.9.1+cu130"}) == "12.6"


# -- into an environment

ONE_GPU = {"gpus": [{"name": "RTX 4090", "compute_capability": "8.9", "memory_bytes": 1}], "cuda": "12.8"}
OWN = ".".join(map(str, sys.version_info[:3]))


@pytest.fixture
def index(bare_pip: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        monkeypatch.setenv("CUDA_HOME", "/no/nvcc/here")
        yield index


def nvcc(folder: Path, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvcc of *release*, as a toolkit that CUDA_HOME names."""
    program = folder / "cuda" / "bin" / "nvcc"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.93'\n")
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(folder / "cuda"))


def python(*layers: Layer) -> Python:
    return Python(installer="pip", timeout_s=5, retries=0, layers=layers)


def version_in(venv: Venv, name: str) -> str | None:
    found = list(Path(venv.path).glob(f"lib/python3*/site-packages/{name}-*.dist-info"))
    return found[0].name[len(name) + 1 : -len(".dist-info")] if found else None


def with_torch(venv: Venv, tag: str = "cu128") -> None:
    """A torch that is installed, as far as its metadata say."""
    site = next(Path(venv.path).glob("lib/python3*/site-packages"))
    folder = site / f"torch-2.9.1+{tag}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1+{tag}\n")
    (folder / "RECORD").write_text("")


def test_a_wheel_is_installed_once_and_again_when_what_it_must_fit_has_changed(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    with_torch(venv)
    _, data = wheel("sage", "2.2.0", {"sage/__init__.py": ""}, ["numpy"])
    index.add("numpy", "2.1.0")
    with FileServer() as server:
        server.add("/cu128/sage-2.2.0-py3-none-any.whl", Content.of(data))
        package = CompiledPackage("Sage", (server.url("/{cuda}/sage-2.2.0-py3-none-any.whl"),))
        for _ in range(2):
            packages.install_compiled(package, venv, here.context, python(), ONE_GPU)

        other = {**ONE_GPU, "gpus": [{"name": "x", "compute_capability": "9.0"}]}
        packages.install_compiled(package, venv, here.context, python(), other)

    assert (version_in(venv, "sage"), version_in(venv, "numpy")) == ("2.2.0", "2.1.0")
    told = [name for name in here.names() if name.startswith("package_")]
    assert told == [
        f"package_{end}" for end in ("started", "finished", "started", "skipped", "started", "finished")
    ]


@pytest.mark.parametrize("release", ["", "12.6"], ids=["no-nvcc", "another-nvcc"])
def test_without_a_wheel_nothing_is_compiled_unless_nvcc_is_that_of_torch(
    release: str,
    index: PackageIndex,
    here: Surroundings,
    venv: Venv,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_torch(venv)
    if release:
        nvcc(tmp_path, release, monkeypatch)
    package = CompiledPackage("sage", (f"{index.url}/no/no-1-py3-none-any.whl",), "if_nvcc")

    with pytest.raises(Failure) as caught:
        packages.install_compiled(package, venv, here.context, python(), ONE_GPU)

    assert (caught.value.class_, caught.value.case) == ("not_found", "no_wheel")
    assert caught.value.message.startswith("there is no prebuilt wheel of sage for Python ")
    assert caught.value.message.endswith(f"it is not compiled, since nvcc here is {release or 'missing'}")
    assert all("sage" not in path for path in index.requests)


def test_with_the_nvcc_of_torch_it_is_built_where_the_plan_says_so(
    index: PackageIndex, here: Surroundings, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_torch(venv)
    nvcc(tmp_path, "12.8", monkeypatch)
    index.add("sage", "2.2.0")
    places = (f"{index.url}/no/no-1-py3-none-any.whl",)

    with pytest.raises(Failure, match="no prebuilt wheel"):
        packages.install_compiled(CompiledPackage("sage", places), venv, here.context, python(), ONE_GPU)
    packages.install_compiled(
        CompiledPackage("sage", places, "if_nvcc"), venv, here.context, python(), ONE_GPU
    )

    assert version_in(venv, "sage") == "2.2.0"


# -- lines that would compile in vain


def test_a_layer_that_would_compile_in_vain_fails_before_anything_is_built(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_torch(venv)

    with pytest.raises(Failure) as caught:
        packages.install(python(Layer(("flash-attn>=2.8",))), venv, here.context, ONE_GPU)

    assert (caught.value.class_, caught.value.case) == ("not_found", "would_compile")
    assert caught.value.message == (
        "`flash-attn>=2.8`: flash-attn would have to be compiled, and there is no nvcc here while torch was built"
        " with CUDA 12.8; no index has a wheel of it for this instance"
    )
    assert "hint" in caught.value.as_fields() and "wheels" in str(caught.value.as_fields()["hint"])


def test_a_wheel_of_an_index_is_taken_and_a_newer_source_is_not(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_torch(venv)
    index.add("xformers", "0.0.31")
    index.add("xformers", "0.0.32")
    files = index._wheels["simple"]["xformers"]
    files["xformers-0.0.32.tar.gz"] = files.pop("xformers-0.0.32-py3-none-any.whl")

    packages.install(python(Layer(("xformers",))), venv, here.context, ONE_GPU)

    assert version_in(venv, "xformers") == "0.0.31"


def test_a_line_of_a_node_that_would_compile_in_vain_is_left_out_and_named(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_torch(venv)
    for name in ("numpy", "sympy"):
        index.add(name, "1.0")
    more = here.write("node/more.txt", "sympy\n")
    path = here.write(
        "node/requirements.txt",
        "numpy  # first\n-r more.txt\nflash-attn==2.8.3 ; sys_platform == 'linux'\n"
        "git+https://github.com/thu-ml/SageAttention.git@main\n",
    )

    packages.install_requirements(path, venv, here.context, python(), "node/requirements.txt", "required")

    assert os.path.exists(more) and version_in(venv, "numpy") == version_in(venv, "sympy") == "1.0"
    told = [fields["message"] for fields in here.of("warning")]
    why = "and there is no nvcc here while torch was built with CUDA 12.8"
    assert told == [
        "node/requirements.txt:3: `flash-attn==2.8.3 ; sys_platform == 'linux'` is left out: "
        f"flash-attn would have to be compiled, {why}; no index has a wheel of it for this instance",
        "node/requirements.txt:4: `git+https://github.com/thu-ml/SageAttention.git@main` is left out: "
        f"sageattention would have to be compiled, {why}",
    ]


def test_with_the_nvcc_of_torch_or_what_is_there_already_nothing_is_left_out(
    index: PackageIndex, here: Surroundings, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_torch(venv)
    nvcc(tmp_path, "12.8", monkeypatch)
    index.add("flash-attn", "2.8.3")
    path = here.write("node/requirements.txt", "flash-attn\n")

    packages.install_requirements(path, venv, here.context, python(), "node/requirements.txt", "required")
    monkeypatch.setenv("CUDA_HOME", "/no/nvcc/here")
    index.withdraw("flash-attn")
    here.write("node/requirements.txt", "flash-attn>=2\n")
    packages.install_requirements(path, venv, here.context, python(), "node/requirements.txt", "required")

    assert version_in(venv, "flash_attn") == "2.8.3"
    assert here.of("warning") == []


@pytest.mark.parametrize(
    "line",
    [
        "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
        "FileNotFoundError: [Errno 2] No such file or directory: '/usr/local/cuda/bin/nvcc'",
        "RuntimeError: The detected CUDA version (12.4) mismatches the version that was used to compile PyTorch (12.8).",
        "RuntimeError: flash_attn was requested, but nvcc was not found.  Are you sure your environment has nvcc available?",
    ],
    ids=["no-home", "no-nvcc", "another-cuda", "asked-for"],
)
def test_a_build_of_any_name_that_wanted_nvcc_says_that_and_is_not_tried_by_the_other_installer(
    line: str,
) -> None:
    output = ["Building wheel for new-kernels (setup.py)", f"  {line}", "error: subprocess-exited-with-error"]

    failure = pip_errors.failure(["uv", "pip", "install", "new-kernels"], 1, output, timeout_s=5)

    assert (failure.class_, failure.case, failure.retriable) == ("not_found", "would_compile", False)
    assert failure.message.endswith(line)


def test_the_instance_is_told_beforehand_which_wheel_it_gets(shop: FileServer, here: Surroundings) -> None:
    torch = Layer(torch=Torch(("2.9.1",)))
    known = {**ONE_GPU, "pythons": [{"path": "/usr/bin/python3", "version": "3.11.9"}]}
    mine, other = (
        sage(shop, level="optional"),
        CompiledPackage("fast", (shop.url("/no-{cuda}-py3-none-any.whl"),)),
    )
    plan = Plan("p", python=Python(layers=(torch, Layer(compiled=(mine, other)))))

    first, second = compiled.of_instance(plan, known, Sources((), {}), here.context)

    assert (first.item, first.level, first.chosen) == (
        "sage",
        "optional",
        file_of("3.11.9", "2.9.1", "12.8", "8.9"),
    )
    assert first.why.endswith(f"is for Python 3.11, torch 2.9.1, CUDA 12.8, sm_89, {MACHINE}")
    assert (second.chosen, second.is_certain) == (None, True)
    assert compiled.of_instance(replace(plan, steps=("files",)), known, Sources((), {}), here.context) == ()


def test_an_optional_compiled_package_comes_after_usable_and_its_lack_is_a_warning(
    bare_pip: None, tmp_path: Path
) -> None:
    runs = AgentRuns(tmp_path)
    copy_of_environment(str(runs.workspace / "venv"))
    layer = {"packages": [], "compiled": [{"name": "sage", "wheels": ["http://127.0.0.1:1/sage-{cuda}.whl"], "level": "optional"}]}  # fmt: skip

    told = runs.run(
        {
            "python": {"installer": "pip", "layers": [layer]},
            "files": [{"path": "f", "content": "x", "level": "critical"}],
        }
    )

    assert told.verdict == "complete"
    [failed] = told.of("package_failed")
    assert (failed["item"], failed["level"], failed["case"]) == ("sage", "optional", "no_wheel")
    assert told.index("run_usable") < told.index("package_started", "sage")
