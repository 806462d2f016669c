"""Indexes that a profile names: a login that reaches only them, a place for torch's wheels, and locked wheels for one machine."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings
from harness.file_server import issue_certificate
from harness.package_index import PackageIndex, wheel
from provision_agent.contract.failures import Failure
from provision_agent.contract.findings import Facts, Gpu
from provision_agent.contract.plan import Layer, Python, Torch
from provision_agent.contract.plan_packages import LockedEnvironment, LockedWheel
from provision_agent.contract.plan_packages import PackageIndex as OwnIndex
from provision_agent.contract.plan_parts import Basic
from provision_agent.downloads import Sources
from provision_agent.steps.python import builds, from_lock, packages, torch, wheel_room
from provision_agent.steps.python.installer import Installer
from provision_agent.steps.python.tags import Target
from provision_agent.steps.python.venv import Venv
from provision_agent.steps.python.wheels import Wheels

PASSWORD = "hush-hush/1"
NO_GPU: dict[str, Any] = {"gpus": [], "cuda": None}
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
PLATFORM = f"linux-{os.uname().machine}"


@pytest.fixture(autouse=True)
def own_settings(bare_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine's settings, none."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    here = Surroundings(str(tmp_path / "workspace"))
    here.context = replace(here.context, secrets={"INDEX_PASSWORD": PASSWORD})
    return here


@pytest.fixture
def public() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        index.add("helper", "1.0")
        yield index


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An authority of our own, and a certificate that it issued."""
    return issue_certificate(str(tmp_path_factory.mktemp("tls")), "127.0.0.1", "localhost")


@pytest.fixture
def private(issued: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """Over https, with a login, by an authority that pip is told of."""
    authority, certificate = issued
    monkeypatch.setenv("PIP_CERT", authority)
    with PackageIndex(certificate=certificate, login=f"ann:{PASSWORD}") as index:
        index.add("ours", "1.0", requires=["helper"])
        yield index


def order(private: PackageIndex, by: str) -> Python:
    own = OwnIndex(private.url, Basic("ann", "INDEX_PASSWORD"))
    return Python(installer=by, layers=(Layer(packages=("ours",)),), indexes=(own,), timeout_s=5.0, retries=0)


@pytest.mark.parametrize("by", ["uv", "pip"])
def test_a_private_index_is_asked_besides_the_usual_one_and_its_password_stands_in_no_argument(
    by: str,
    uv: str,
    here: Surroundings,
    venv: Venv,
    public: PackageIndex,
    private: PackageIndex,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, said = tmp_path / "bin", tmp_path / "argv"
    folder.mkdir()
    for name, program in (("uv", uv), ("python", venv.python)):
        script = folder / name
        script.write_text(f'#!/bin/sh\necho "$@" >> {said}\nexec {program} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PIP_INDEX_URL", public.url)
    told = order(private, by)

    packages.install(told, replace(venv, python=str(folder / "python")), here.context, NO_GPU)

    installed = Installer(told, venv, here.context).installed()
    assert (installed["ours"], installed["helper"]) == ("1.0", "1.0")
    assert "install" in said.read_text() and PASSWORD not in said.read_text()
    assert PASSWORD not in repr(here.events) and PASSWORD not in "\n".join(here.output)


def test_a_password_that_is_not_set_is_named_before_any_index_is_asked(
    here: Surroundings, venv: Venv, private: PackageIndex
) -> None:
    here.context = replace(here.context, secrets={})

    with pytest.raises(Failure) as caught:
        packages.install(order(private, "pip"), venv, here.context, NO_GPU)

    assert (caught.value.class_, caught.value.case) == ("unauthorized", "token_unset")
    assert "INDEX_PASSWORD" in caught.value.message and private.requests == []


def test_torch_comes_from_the_index_that_the_profile_names_for_it(public: PackageIndex) -> None:
    wanted = Torch(
        ("2.9.1",), "cpu", index=f"{public.base}/mine/{{accelerator}}", find_links=("https://w/x",)
    )
    public.add_torch("2.9.1+cpu", index="mine/cpu")
    access = Sources((), {})

    row = Wheels(access, {}, Target((3, 11), "x86_64", (2, 36)), until=1e12).of_torch(wanted, Facts())
    [source] = torch.sources(wanted, builds.candidates(wanted, Facts())[0], {"index-url": "https://other"})

    assert row.chosen == "torch 2.9.1+cpu"
    assert source.options == ["--index-url", f"{public.base}/mine/cpu", "--find-links=https://w/x"]


ADA = Facts(gpus=(Gpu("RTX 4090", "8.9"),), cuda="12.8", driver="570.1")
OLD = Facts(gpus=(Gpu("GTX 1080", "6.1"),), cuda="12.2", driver="535.1")
TORCH = LockedWheel("torch", "2.9.1+cu128", "https://h/t.whl", "a" * 64)


def locked(**other: str) -> LockedEnvironment:
    fields = {"python": HERE, "platform": PLATFORM, "accelerator": "cu128", **other}
    return LockedEnvironment(**fields, wheels=(TORCH,))


@pytest.mark.parametrize(
    ("lock", "facts", "accelerator", "said"),
    [
        (locked(), ADA, "auto", ""),
        (locked(), OLD, "auto", "cu128"),
        (locked(), Facts(), "auto", "no GPU"),
        (locked(), Facts(), "cu128", ""),
        (locked(accelerator="cpu"), ADA, "auto", "with cpu"),
        (locked(python="3.7"), ADA, "auto", "for Python 3.7"),
        (locked(platform="linux-riscv64"), ADA, "auto", "for linux-riscv64"),
    ],
    ids=["fits", "old card", "no card", "the profile says so", "cpu on a card", "python", "platform"],
)
def test_a_lock_is_refused_by_name_where_it_does_not_fit(
    lock: LockedEnvironment, facts: Facts, accelerator: str, said: str, here: Surroundings, venv: Venv
) -> None:
    layers = (Layer(torch=Torch(("2.9.1",), accelerator)),)
    python = Python(venv=venv.path, layers=layers, locked=lock)

    failure = from_lock.misfit(python, here.context, facts)

    assert (failure is None) == (said == "")
    if failure is not None:
        assert said in failure.message and failure.case == "lock_misfit"


@pytest.mark.parametrize("by", ["uv", "pip"])
def test_locked_wheels_are_installed_by_their_hash_and_nothing_else_is(
    by: str, here: Surroundings, venv: Venv, public: PackageIndex, uv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.path.dirname(uv)}{os.pathsep}{os.environ['PATH']}")
    public.add("wanted", "1.0", requires=["helper"])
    file, data = wheel("wanted", "1.0", {"wanted/__init__.py": "__version__ = '1.0'\n"}, ["helper"])
    path = Path(here.workspace) / file
    path.write_bytes(data)
    good = LockedWheel("wanted", "1.0", f"{public.base}/simple/wanted/{file}", sha256(data))
    environment = LockedEnvironment(HERE, PLATFORM, "none", (good,))
    python = Python(installer=by, layers=(Layer(packages=("wanted", "other")),), locked=environment)

    packages.install(python, venv, here.context, NO_GPU)

    installed = Installer(python, venv, here.context).installed()
    assert installed["wanted"] == "1.0" and "helper" not in installed, "it is not in the lock"
    bad = replace(environment, wheels=(replace(good, version="2.0", sha256="b" * 64),))
    with pytest.raises(Failure) as caught:
        packages.install(replace(python, locked=bad), venv, here.context, NO_GPU)
    assert caught.value.class_ in ("checksum", "conflict", "command")


def sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_what_a_wheel_takes_is_read_off_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3000):
            archive.writestr(f"package/part{number}.txt", "x" * 5000)
    data = path.read_bytes()
    at = data.rindex(b"PK\5\6")
    start = int.from_bytes(data[at + 16 : at + 20], "little")

    assert wheel_room.listed_bytes(data[start:at], 3000) == 3000 * 8192
    assert wheel_room.listed_bytes(data[start : at - 100], 3000) is None, "cut"


def test_a_file_beyond_4_gib_counts_with_what_its_entry_says_in_64_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("large.so", "x")
        archive.writestr("small.py", "x")
        archive.filelist[0].file_size = 5 << 30  # as its central directory will say
    data = path.read_bytes()
    at = data.rindex(b"PK\5\6")
    start = int.from_bytes(data[at + 16 : at + 20], "little")

    assert wheel_room.listed_bytes(data[start:at], 2) == (5 << 30) + 4096


@pytest.mark.parametrize(
    ("wheel_bytes", "unpacked_bytes"),
    [(6_367_411 // 87, 28_139_520 // 87), (158_667_839 // 25, 639_451_136 // 25), (437_233_821, 918_040_540)],
    ids=["small", "medium", "of CUDA"],
)
def test_where_nobody_tells_a_wheel_takes_about_what_those_of_its_size_take(
    wheel_bytes: int, unpacked_bytes: int
) -> None:
    """The averages over the wheels of a ComfyUI."""
    assert wheel_room.estimated(wheel_bytes) == pytest.approx(unpacked_bytes, rel=0.2)


def test_of_a_lock_only_what_is_named_is_brought_where_nothing_else_may_come_along(
    here: Surroundings, venv: Venv, public: PackageIndex
) -> None:
    wheels = []
    for name in ("first", "second"):
        file, data = wheel(name, "1.0", {f"{name}/__init__.py": "__version__ = '1.0'\n"})
        public.add(name, "1.0")
        wheels.append(LockedWheel(name, "1.0", f"{public.base}/simple/{name}/{file}", sha256(data)))
    environment = LockedEnvironment(HERE, PLATFORM, "none", tuple(wheels))
    python = Python(installer="pip", layers=(Layer(packages=("--no-deps", "first")),), locked=environment)

    packages.install(python, venv, here.context, NO_GPU)

    assert {"first", "second"} & set(Installer(python, venv, here.context).installed()) == {"first"}
    other = replace(python, layers=(Layer(packages=("--no-deps", "third")),))
    with pytest.raises(Failure, match="third: not in the lock"):
        packages.install(other, venv, here.context, NO_GPU)
