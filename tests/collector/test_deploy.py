"""The files in `deploy/` mean what the command understands, as far as it can be checked without their machines."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from provision_collector.cli.serve import command

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCS = DEPLOY.parent / "docs"


def words_of_compose() -> list[str]:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return list(services["server-1"]["command"])


def words_of_kubernetes() -> list[str]:
    return list(deployment()["containers"][0]["args"])


def words_of_systemd() -> list[str]:
    line = re.search(r"^ExecStart=(.*)$", (DEPLOY / "provision@.service").read_text(), re.MULTILINE)
    assert line is not None
    program, name, *words = line[1].replace("%i", "1").split()
    assert (Path(program).name, name) == ("provision", "serve")
    return words


def deployment() -> Any:
    parts = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert [part["kind"] for part in parts] == ["Deployment", "Service", "PodDisruptionBudget"]
    return parts[0]["spec"]["template"]["spec"]


@pytest.mark.parametrize("words_of", [words_of_compose, words_of_kubernetes, words_of_systemd])
def test_every_option_in_a_file_for_deployment_is_one_of_serve(words_of: Any) -> None:
    context = command.make_context("serve", words_of())

    assert context.params["listen"]
    assert context.params["keep_days"] == 7


def test_a_server_in_kubernetes_is_asked_under_a_name_that_it_answers_to() -> None:
    server = deployment()["containers"][0]
    probe = server["readinessProbe"]["httpGet"]

    assert probe["path"] == "/healthz"
    assert probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}]
    assert {each["name"] for each in server["env"]} == {"PROVISION_TOKEN", "PROVISION_DATABASE"}
    assert {each["name"] for each in server["volumeMounts"]} == {
        each["name"] for each in deployment()["volumes"]
    }


def test_alerts_name_numbers_that_the_server_has() -> None:
    rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
    told = "\n".join(path.read_text() for path in (DEPLOY.parent / "collector").rglob("pool/server/*.py"))
    named = {name for rule in rules for name in re.findall(r"provision_[a-z_]+", rule["expr"])}

    assert named
    assert [name for name in named if name.removesuffix("_total") not in told] == []


def test_every_file_for_deployment_is_explained() -> None:
    page = (DOCS / "DEPLOY.md").read_text()

    assert [path.name for path in DEPLOY.iterdir() if f"deploy/{path.name}" not in page] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd on this machine")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "provision@1.service"
    unit.write_text(
        (DEPLOY / "provision@.service").read_text().replace("/opt/provision/bin/provision", "/bin/true")
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert [line for line in done.stderr.splitlines() if "provision" in line] == []
