"""Which torch, from where, and does it run: the table, and real installs of a tiny stand-in for torch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from harness.environments import Surroundings
from harness.package_index import PackageIndex
from provision_agent.contract.failures import Failure
from provision_agent.contract.findings import Facts
from provision_agent.contract.parsing import parse
from provision_agent.contract.plan import Layer, Python, Torch
from provision_agent.steps.python import companions, packages
from provision_agent.steps.python.builds import candidates
from provision_agent.steps.python.venv import Venv


def machine(cuda: str | None, *cards: str) -> dict[str, Any]:
    """Facts of an instance with these cards."""
    return {
        "gpus": [{"name": "card", "compute_capability": card, "memory_bytes": 1} for card in cards],
        "cuda": cuda,
    }


CHOICES = {
    "ada, driver 12.4, newest torch needs NVIDIA's compatibility": (
        "12.4",
        ["8.9"],
        ["2.9.1"],
        ["cu126", "cu128"],
    ),
    "ada, driver 12.4, an older torch suits for certain": ("12.4", ["8.9"], ["2.9.1", "2.5.1"], ["cu124"]),
    "ada, driver 12.8": ("12.8", ["8.9"], ["2.9.1"], ["cu128", "cu126"]),
    "ada, driver 13.0": ("13.0", ["8.9"], ["2.9.1"], ["cu130", "cu128", "cu126"]),
    "blackwell, driver 12.8": ("12.8", ["12.0"], ["2.9.1"], ["cu128"]),
    "pascal, driver 12.8": ("12.8", ["6.1"], ["2.9.1"], ["cu126"]),
    "volta, driver 13.0": ("13.0", ["7.0"], ["2.7.1"], ["cu126", "cu118"]),
    "hopper, driver 11.8": ("11.8", ["9.0"], ["2.9.1", "2.6.0"], ["cu118"]),
    "two kinds of cards": ("12.8", ["6.1", "8.6"], ["2.8.0"], ["cu126"]),
    "no GPU": (None, [], ["2.5.1"], ["cpu"]),
}


@pytest.mark.parametrize("case", CHOICES.values(), ids=CHOICES.keys())
def test_the_build_follows_from_driver_and_card(
    case: tuple[str | None, list[str], list[str], list[str]],
) -> None:
    cuda, cards, versions, tags = case

    found = candidates(Torch(versions=tuple(versions)), parse(Facts, machine(cuda, *cards)))

    assert [candidate.tag for candidate in found][: len(tags)] == tags


def test_a_blackwell_card_with_an_old_driver_is_refused_with_the_reason() -> None:
    with pytest.raises(Failure) as caught:
        candidates(Torch(versions=("2.9.1",)), parse(Facts, machine("12.4", "12.0")))

    assert caught.value.class_ == "gpu"
    assert "sm_120 needs a driver for CUDA 12.8, this one ends at 12.4" in caught.value.message
    assert "cu126 has no code for sm_120" in caught.value.message


def test_an_accelerator_in_the_profile_is_taken_as_it_is() -> None:
    found = candidates(Torch(versions=("2.9.1",), accelerator="cu118"), parse(Facts, machine("13.0", "12.0")))

    assert [candidate.tag for candidate in found] == ["cu118"]


@pytest.fixture
def index(bare_pip: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    monkeypatch.setenv("FAKE_GPU", "1")
    with PackageIndex() as index:
        monkeypatch.setenv("PROVISION_TORCH_INDEX", f"{index.base}/whl")
        for tag in ("cu124", "cu121", "cpu"):
            index.add_torch(f"2.5.1+{tag}", index=f"whl/{tag}")
            index.add("torchvision", f"0.20.1+{tag}", requires=["torch==2.5.1"], index=f"whl/{tag}")
        yield index


def python(*versions: str, accelerator: str = "auto", **fields: Any) -> Python:
    layer = Layer(torch=Torch(versions=versions, accelerator=accelerator, extras=("torchvision",)))
    return Python(installer="pip", timeout_s=5, retries=0, layers=(layer,), **fields)


def torch_of(venv: Venv) -> str:
    code = "from importlib.metadata import version; print(version('torch'), version('torchvision'))"
    return (
        subprocess.run([venv.python, "-c", code], check=True, stdout=subprocess.PIPE, timeout=20)
        .stdout.decode()
        .strip()
    )


def test_a_version_that_the_index_refuses_makes_room_for_the_next_without_a_second_try(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    index.statuses["/whl/cu126/"] = 403

    packages.install(python("2.9.1", "2.5.1"), venv, here.context, machine("12.6", "8.9"))

    assert torch_of(venv) == "2.5.1+cu124 0.20.1+cu124"
    assert here.of("package_retried") == []
    assert index.requests.count("/whl/cu126/torch/") == 1
    said = [f["message"] for f in here.of("package_progress")]
    assert any(
        "torch 2.5.1+cu124: the driver runs CUDA up to 12.6, the card is sm_89" in message for message in said
    )


def test_an_index_out_of_reach_is_asked_for_one_candidate_only(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVISION_TORCH_INDEX", "http://127.0.0.1:9/whl")
    layer = Layer(torch=Torch(versions=("2.9.1", "2.5.1")))

    with pytest.raises(Failure) as caught:
        order = Python(installer="pip", timeout_s=5, retries=1, layers=(layer,))
        packages.install(order, venv, here.context, machine("12.4", "8.9"))

    assert caught.value.class_ == "network"
    assert len(here.of("package_retried")) == 2


@pytest.mark.timeout(180)
def test_a_cpu_build_on_a_machine_with_a_gpu_is_repaired(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    packages.install(python("2.5.1", accelerator="cpu"), venv, here.context, machine(None))
    assert torch_of(venv).startswith("2.5.1+cpu")

    packages.install(python("2.5.1"), venv, here.context, machine("12.4", "8.9"))

    assert torch_of(venv) == "2.5.1+cu124 0.20.1+cu124"
    assert any("is a CPU build, and this instance has a GPU" in f["message"] for f in here.of("warning"))


def test_a_cpu_build_is_right_where_there_is_no_gpu(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    packages.install(python("2.5.1"), venv, here.context, machine(None))
    packages.install(python("2.5.1"), venv, here.context, machine(None))

    assert torch_of(venv) == "2.5.1+cpu 0.20.1+cpu"
    assert here.of("warning") == []
    assert [f["item"] for f in here.of("package_skipped")] == ["torch"]


@pytest.fixture
def image(venv: Venv, index: PackageIndex, here: Surroundings) -> Venv:
    """An environment that its image brought, with torch 2.5.1 alone; `auto` chose it."""
    command = [
        venv.python,
        "-m",
        "pip",
        "install",
        "-q",
        "--index-url",
        f"{index.base}/whl/cu124",
        "torch==2.5.1",
    ]
    subprocess.run(command, check=True, timeout=25)
    here.context.state.put("venv", "auto", {"path": venv.path})
    return venv


def test_the_torch_of_an_image_is_not_downgraded_and_gets_what_goes_with_it(
    index: PackageIndex, here: Surroundings, image: Venv
) -> None:
    index.add_torch("2.4.1+cu124", index="whl/cu124")

    packages.install(python("2.4.1"), image, here.context, machine("12.4", "8.9"))
    packages.install(python("2.4.1"), image, here.context, machine("12.4", "8.9"))

    assert torch_of(image) == "2.5.1+cu124 0.20.1+cu124"
    said = [f["message"] for f in here.of("package_progress")]
    assert any("torch 2.5.1+cu124: it runs here already" in message for message in said)
    assert [f["item"] for f in here.of("package_skipped")] == ["torch"]


def test_the_torch_of_an_image_makes_room_for_a_newer_one_that_the_profile_wants(
    index: PackageIndex, here: Surroundings, image: Venv
) -> None:
    index.add_torch("2.6.0+cu124", index="whl/cu124")
    index.add("torchvision", "0.21.0+cu124", requires=["torch==2.6.0"], index="whl/cu124")

    packages.install(python("2.6.0", "2.4.1"), image, here.context, machine("12.4", "8.9"))

    assert torch_of(image) == "2.6.0+cu124 0.21.0+cu124"


def test_a_build_that_does_not_see_the_gpu_is_passed_over_and_the_failure_says_so(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAKE_GPU")

    with pytest.raises(Failure) as caught:
        packages.install(python("2.5.1", accelerator="cu121"), venv, here.context, machine("12.1", "8.9"))

    assert caught.value.class_ == "gpu"
    assert "does not see the GPU" in caught.value.message


def test_the_users_own_index_is_asked_first_for_the_exact_build(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    for tag in ("cpu", "cu124"):
        index.add_torch(f"2.5.1+{tag}")
    index.add("torchvision", "0.20.1")

    packages.install(python("2.5.1"), venv, here.context, machine("12.4", "8.9"))

    assert torch_of(venv) == "2.5.1+cu124 0.20.1"
    assert not any(path.startswith("/whl") for path in index.requests)


def test_a_requirement_that_drags_in_another_torch_is_stopped_though_nothing_is_listed_as_protected(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = python("2.5.1")
    packages.install(order, venv, here.context, machine("12.4", "8.9"))
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    index.add_torch("2.9.1")
    index.add("node", "1.0", requires=["torch>=1.9"])
    path = here.write("node/requirements.txt", "node\ntorch>=1.9")

    packages.install_requirements(path, venv, here.context, order, "node/requirements.txt", "required")

    assert torch_of(venv).startswith("2.5.1+cu124")


def test_a_torch_that_was_replaced_by_hand_is_put_back_from_its_own_index(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    order = python("2.5.1", protect=("torch",))
    packages.install(order, venv, here.context, machine("12.4", "8.9"))
    metadata = {
        "torch-2.5.1+cu124.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1\n"
    }
    index.add(
        "evil",
        "1.0",
        files={f"evil-1.0.data/purelib/{path}": text for path, text in metadata.items()},
        index="whl/cu124",
    )
    path = here.write("node/requirements.txt", f"--index-url {index.base}/whl/cu124\nevil\n")

    packages.install_requirements(path, venv, here.context, order, "node/requirements.txt", "required")

    assert torch_of(venv).startswith("2.5.1+cu124")
    assert any("replaced torch 2.5.1+cu124 by 2.9.1" in f["message"] for f in here.of("warning"))


FITS = {
    "2.9.1+cu128": ["torchvision==0.24.*", "torchaudio==2.9.1"],
    "2.11.0": ["torchvision==0.26.*", "torchaudio==2.11.0"],
    "2.1.0": ["torchvision==0.16.*", "torchaudio==2.1.0"],
    "2.0.1": ["torchvision==0.15.*", "torchaudio==2.0.*"],
    "1.13.1": ["torchvision==0.14.*", "torchaudio==0.13.*"],
    "2.10.0.dev20250901+cu128": ["torchvision", "torchaudio"],
}


@pytest.mark.parametrize("version", FITS)
def test_companions_follow_from_the_version_of_torch(version: str) -> None:
    assert companions.requirements(["torchvision", "torchaudio"], version, {}) == FITS[version]


def test_a_companion_with_a_version_of_its_own_and_any_other_package_are_left_alone() -> None:
    extras = ["torchvision==0.20.0", "torchaudio>=2", "xformers", "TorchAudio"]

    assert companions.requirements(extras, "2.5.1", {}) == [*extras[:3], "torchaudio==2.5.1"]
    assert companions.requirements(extras, "2.5.1", {"torchaudio": "2.5.0"}) == extras


def with_audio(*versions: str, **fields: Any) -> Python:
    layer = Layer(torch=Torch(versions=versions, extras=("torchvision", "torchaudio")))
    return Python(installer="pip", timeout_s=5, retries=0, layers=(layer,), **fields)


def audio_of(venv: Venv) -> str:
    code = "from importlib.metadata import version; print(version('torchaudio'))"
    return (
        subprocess.run([venv.python, "-c", code], check=True, stdout=subprocess.PIPE, timeout=20)
        .stdout.decode()
        .strip()
    )


@pytest.mark.parametrize("versions", [("2.5.1",), ()], ids=["a version", "the newest"])
def test_a_companion_that_does_not_say_so_is_chosen_to_match_torch(
    versions: tuple[str, ...], index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    """The newest torchaudio asks for no torch, and is for another one."""
    index.add("torchaudio", "2.11.0+cpu", index="whl/cpu")
    index.add("torchaudio", "2.5.1+cpu", index="whl/cpu")

    packages.install(with_audio(*versions), venv, here.context, machine(None))

    assert torch_of(venv) == "2.5.1+cpu 0.20.1+cpu"
    assert audio_of(venv) == "2.5.1+cpu"


def test_a_layer_says_which_companion_does_not_exist(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    index.add("torchaudio", "2.11.0+cpu", index="whl/cpu")

    with pytest.raises(Failure) as caught:
        packages.install(with_audio("2.5.1"), venv, here.context, machine(None))

    assert caught.value.class_ == "not_found"
    assert "torch 2.5.1 goes with torchvision==0.20.*, torchaudio==2.5.1" in caught.value.message


def test_a_companion_for_another_torch_is_replaced_by_the_next_run(
    index: PackageIndex, here: Surroundings, venv: Venv
) -> None:
    index.add("torchaudio", "2.11.0+cpu", index="whl/cpu")
    index.add("torchaudio", "2.5.1+cpu", index="whl/cpu")
    loose = Layer(torch=Torch(versions=("2.5.1",), extras=("torchvision", "torchaudio>=2.6")))
    order = Python(installer="pip", timeout_s=5, retries=0, layers=(loose,))
    packages.install(order, venv, here.context, machine(None))
    assert audio_of(venv) == "2.11.0+cpu"

    packages.install(with_audio("2.5.1"), venv, here.context, machine(None))

    assert audio_of(venv) == "2.5.1+cpu"


def test_what_a_failed_torch_layer_was_to_bring_nothing_else_brings(
    index: PackageIndex, here: Surroundings, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by name nor for another package: another torch is four gigabytes, and nobody asked for it."""
    here = Surroundings(here.workspace, within_s=150.0)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    index.add_torch("2.11.0")
    index.add("torchaudio", "2.11.0")
    index.add("node", "1.0", requires=["torch>=1.9"])
    index.add("harmless", "1.0")
    order = with_audio("2.4.0")
    with pytest.raises(Failure):
        packages.install(order, venv, here.context, machine(None))

    path = here.write("ui/requirements.txt", "node\ntorchaudio\n")
    with pytest.raises(Failure) as caught:
        packages.install_requirements(path, venv, here.context, order, "ui/requirements.txt", "required")
    assert caught.value.class_ == "missing"
    assert "ui/requirements.txt needs torch" in caught.value.message
    assert "the torch layer was to bring" in caught.value.message
    path = here.write("ui/requirements.txt", "harmless\n")
    packages.install_requirements(path, venv, here.context, order, "ui/requirements.txt", "required")

    code = (
        "import importlib.metadata as m; print(sorted(d.metadata['Name'].lower() for d in m.distributions()))"
    )
    there = subprocess.run([venv.python, "-c", code], check=True, stdout=subprocess.PIPE, timeout=20).stdout
    assert b"harmless" in there
    assert b"torch" not in there
