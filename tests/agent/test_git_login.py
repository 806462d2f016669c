"""git gets a token over a pipe, for the https host of its rule only; the token is in no argv, file or environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.agent_runs import AgentRuns
from harness.environments import Surroundings
from harness.file_server import make_certificate
from harness.git_server import GitServer, Origin
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Repo
from provision_agent.contract.plan_parts import SecretRule
from provision_agent.steps import repos

TOKEN = "ghp_SeCrEtOfThisTest0123456789"


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    certificate = make_certificate(str(tmp_path), "127.0.0.1")
    monkeypatch.setenv("GIT_SSL_CAINFO", certificate)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[credential]\n\thelper = store\n")
    Origin(str(tmp_path / "origins" / "a")).commit({"a.txt": "a"})
    with GitServer(str(tmp_path / "origins"), certificate=certificate, password=TOKEN) as server:
        yield server


def surroundings(folder: Path, *hosts: str) -> Surroundings:
    here = Surroundings(str(folder / "w"))
    rules = (SecretRule("GITHUB_TOKEN", hosts),)
    here.context = replace(here.context, rules=rules, secrets={"GITHUB_TOKEN": TOKEN})
    return here


class Watch:
    """Who has the token in argv or environment, looked at 200 times in a second while entered."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                for name in ("cmdline", "environ"):
                    try:
                        said = Path("/proc", pid, name).read_bytes()
                    except OSError:
                        continue
                    if TOKEN.encode() in said:
                        self.seen.append(f"{name} of {said[:100]!r}")


def test_a_private_repository_comes_with_the_token_and_nobody_keeps_it(
    tmp_path: Path, private: GitServer
) -> None:
    here = surroundings(tmp_path, f"127.0.0.1:{private.port}")

    with Watch() as watch:
        repos.checkout(Repo(url=private.smart("a"), path="a"), here.context)

    assert Path(here.workspace, "a", "a.txt").read_text() == "a"
    assert set(private.logins) == {"x-access-token"}
    assert watch.seen == []
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert kept == [], "neither git's own config nor the helper that stores has it"
    assert TOKEN not in str(here.events) + str(here.output)


@pytest.mark.parametrize("host", ["localhost", "example.org", "127.0.0.1:1"])
def test_another_host_gets_no_token(tmp_path: Path, private: GitServer, host: str) -> None:
    here = surroundings(tmp_path, host)

    with pytest.raises(Failure) as refused:
        repos.checkout(Repo(url=private.smart("a"), path="a"), here.context)

    assert refused.value.class_ == "unauthorized"
    assert private.logins == []


@pytest.mark.parametrize(
    "plan",
    [
        {"repos": [{"url": "https://me:hush@h.test/a", "path": "a"}]},
        {"repos": [{"url": "https://h.test/a", "path": "a", "mirrors": ["https://hush@h.test/b"]}]},
        {"downloads": [{"url": "http://hush@h.test/a", "path": "a"}]},
    ],
)
def test_a_plan_with_a_login_in_a_url_begins_nothing(tmp_path: Path, plan: dict[str, object]) -> None:
    runs = AgentRuns(tmp_path)
    whole = {"format": 2, "name": "x", "workspace": str(runs.workspace), **plan}

    answer = runs.ask("start", {"run": "r", "plan": whole, "secrets": {}})

    assert answer["state"] == "usage"
    assert "login" in answer["message"]
    assert "hush" not in str(answer)
    assert not runs.workspace.exists()
