"""Which default secrets leave this machine: those for want of which a host refuses, asked from here."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.file_server import make_certificate
from harness.git_server import GitServer, Origin
from provision_agent.contract.plan import Plan, Repo
from provision_agent.contract.plan_parts import SecretRule
from provision_collector.run.default_secrets import refused_without


@pytest.mark.parametrize("is_private", [True, False])
async def test_a_repository_wants_the_default_token_of_its_host_where_it_is_private(
    is_private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(str(tmp_path), "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    Origin(str(tmp_path / "origins" / "a")).commit({"a.txt": "a"})
    password = "x" if is_private else ""
    with GitServer(str(tmp_path / "origins"), certificate=certificate, password=password) as server:
        rule = SecretRule("GITHUB_TOKEN", ("127.0.0.1",), is_default=True)
        plan = Plan(name="p", repos=(Repo(url=server.smart("a"), path="a"),), secrets=(rule,))

        wanted = await refused_without(plan, {"GITHUB_TOKEN": "hush"})

        assert wanted == ({"GITHUB_TOKEN"} if is_private else frozenset())
        assert server.logins == [], "no value is sent to find that out"
