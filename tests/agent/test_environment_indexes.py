"""uv reaches an index by every way that pip does, and pip stands in where uv cannot: the real two, TLS, a proxy, a login."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.environments import Surroundings
from harness.file_server import issue_certificate, make_certificate
from harness.package_index import PackageIndex, wheel
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Layer, Python
from provision_agent.steps.python import indexes, installer, packages, pip_errors
from provision_agent.steps.python.venv import Venv

NO_GPU: dict[str, Any] = {"gpus": [], "cuda": None}
WITHIN = {"timeout_s": 5.0, "retries": 0}


@pytest.fixture(autouse=True)
def own_settings(bare_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine's settings, none."""
    monkeypatch.setattr(indexes, "_OWN_AUTHORITIES", ())


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    return Surroundings(str(tmp_path / "workspace"))


@pytest.fixture
def uv(uv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The real uv, on PATH."""
    return put_on_path(tmp_path, monkeypatch, f'exec {uv} "$@"')


def put_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> str:
    """A program `uv` that is *script*."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "uv").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return str(folder / "uv")


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An authority of our own, and a certificate that it issued."""
    return issue_certificate(str(tmp_path_factory.mktemp("tls")), "127.0.0.1", "localhost")


@pytest.fixture
def authority(issued: tuple[str, str]) -> str:
    return issued[0]


@pytest.fixture
def secure(issued: tuple[str, str]) -> Iterator[PackageIndex]:
    with PackageIndex(certificate=issued[1]) as index:
        index.add("sympy", "1.13")
        yield index


def pip_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: str) -> None:
    lines = [f"{name.replace('_', '-')} = {value}" for name, value in options.items()]
    path = tmp_path / "pip.conf"
    path.write_text("\n".join(["[global]", *lines, ""]))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))


def installed(
    here: Surroundings, venv: Venv, *names: str, by: str = "uv", within: dict[str, Any] = WITHIN
) -> dict[str, str]:
    layers = (Layer(packages=names or ("sympy",)),)
    order = Python(installer=by, layers=layers, **within)
    packages.install(order, venv, here.context, NO_GPU)
    return installer.Installer(order, venv, here.context).installed()


@pytest.mark.parametrize("how", ["pip.conf", "PIP_CERT", "trusted-host"])
def test_a_certificate_that_pip_believes_uv_believes_too(
    how: str,
    uv: str,
    secure: PackageIndex,
    authority: str,
    here: Surroundings,
    venv: Venv,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"index_url": secure.url}
    if how == "PIP_CERT":
        monkeypatch.setenv(how, authority)
    else:
        options.update({"cert": authority} if how == "pip.conf" else {"trusted_host": "localhost"})
    pip_conf(tmp_path, monkeypatch, **options)

    assert installed(here, venv)["sympy"] == "1.13"
    assert here.of("warning") == []


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_that_pips_library_reads_is_uvs_unless_pip_or_uv_is_told_otherwise(
    name: str, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, authority)

    assert indexes.for_uv({}) == {"SSL_CERT_FILE": authority}
    assert indexes.for_uv({"cert": "/own.pem"}) == {"SSL_CERT_FILE": "/own.pem"}
    monkeypatch.setenv("SSL_CERT_FILE", "/uvs.pem")
    assert indexes.for_uv({}) == {}


def test_the_authorities_that_an_images_owner_added_to_the_system_count_for_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_OWN_AUTHORITIES", (str(tmp_path / "none"), str(tmp_path / "added")))
    assert indexes.for_uv({}) == {}

    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "company.crt").touch()

    assert indexes.for_uv({})["UV_SYSTEM_CERTS"] == "true"


def test_a_client_certificate_of_pip_is_shown_by_uv(
    uv: str,
    issued: tuple[str, str],
    here: Surroundings,
    venv: Venv,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority, own = issued
    with PackageIndex(certificate=own, clients=authority) as index:
        index.add("sympy", "1.13")
        pip_conf(tmp_path, monkeypatch, index_url=index.url, cert=authority, client_cert=own)

        assert installed(here, venv)["sympy"] == "1.13"


def test_pip_stands_in_for_a_certificate_that_uv_refuses_for_its_form(
    uv: str, here: Surroundings, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that signed itself: pip takes it from its `cert`, uv never does."""
    own = make_certificate(str(tmp_path), "localhost")
    with PackageIndex(certificate=own) as index:
        index.add("sympy", "1.13")
        pip_conf(tmp_path, monkeypatch, index_url=index.url, cert=own)

        assert installed(here, venv, by="auto")["sympy"] == "1.13"

    assert ["pip tries" in fields["message"] for fields in here.of("warning")] == [True]


def test_uv_goes_through_the_proxy_of_pip(
    uv: str, here: Surroundings, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PackageIndex() as proxy:
        proxy.add("sympy", "1.13")
        pip_conf(
            tmp_path,
            monkeypatch,
            index_url="http://packages.invalid/simple",
            trusted_host="packages.invalid",
            proxy=proxy.base.partition("//")[2],
        )

        assert installed(here, venv)["sympy"] == "1.13"
        assert "http://packages.invalid/simple/sympy/" in proxy.requests


def test_uv_logs_in_with_the_netrc_that_pip_reads(
    uv: str, here: Surroundings, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PackageIndex(login="ann:hush") as index:
        index.add("sympy", "1.13")
        netrc = tmp_path / "home" / ".netrc"
        netrc.write_text("machine 127.0.0.1 login ann password hush\n")
        netrc.chmod(0o600)
        pip_conf(tmp_path, monkeypatch, index_url=index.url)

        assert installed(here, venv)["sympy"] == "1.13"


def test_uv_keeps_to_the_constraints_and_looks_into_all_the_folders_of_pip(
    uv: str, here: Surroundings, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    for name in ("one", "two"):
        file, data = wheel(name, "1.0", {f"{name}.py": ""}, ())
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(data)
        folders.append(str(tmp_path / name))
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("sympy==1.12\n")
    with PackageIndex() as index:
        index.add("sympy", "1.12")
        index.add("sympy", "1.13")
        pip_conf(
            tmp_path,
            monkeypatch,
            index_url=index.url,
            find_links="\n    ".join(folders),
            constraint=str(constraints),
        )

        found = installed(here, venv, "one", "two", "sympy")

    assert (found["one"], found["two"], found["sympy"]) == ("1.0", "1.0", "1.12")


SAID = {
    "a certificate": "error: Request failed\n  Caused by: invalid peer certificate: UnknownIssuer",
    "a login": "error: Failed to fetch: HTTP status client error (401 Unauthorized) for url",
    "a proxy": "error: Request failed after 3 retries\n  Caused by: error sending request: tunnel error: unsuccessful",
    "a form of index": "error: No solution found: sympy was not found in the package registry",
}


@pytest.mark.parametrize("what", SAID)
def test_pip_stands_in_at_once_where_uv_cannot_reach_what_pip_can_and_that_is_said(
    what: str, here: Surroundings, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch, f"echo >> {tmp_path}/calls; printf '{SAID[what]}\\n' >&2; exit 2")
    here = Surroundings(here.workspace, patience_s=60.0)
    with PackageIndex() as index:
        index.add("sympy", "1.13")
        pip_conf(tmp_path, monkeypatch, index_url=index.url)

        assert installed(here, venv, by="auto")["sympy"] == "1.13"

    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert ["pip tries" in fields["message"] for fields in here.of("warning")] == [True]


def test_a_certificate_that_nobody_believes_is_said_so_and_not_tried_again(
    uv: str,
    secure: PackageIndex,
    here: Surroundings,
    venv: Venv,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pip_conf(tmp_path, monkeypatch, index_url=secure.url)
    here = Surroundings(here.workspace, patience_s=60.0)

    for by in ("uv", "pip"):
        with pytest.raises(Failure) as caught:
            installed(here, venv, by=by)
        assert caught.value.class_ == "tls", caught.value.message

    assert here.of("package_retried") == []


def test_what_an_installer_says_of_the_way_is_told_from_a_line_that_is_down() -> None:
    def failure(line: str) -> Failure:
        return pip_errors.failure(["pip"], 1, [line], timeout_s=5)

    assert pip_errors.is_of_the_way(failure("ERROR: ProxyError('Cannot connect to proxy.')"))
    assert not pip_errors.is_of_the_way(failure("error: error sending request: Connection refused"))
