"""A token's text is in no file, log, event or argv on either side; only its host sees it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from harness.content import Content
from harness.file_server import Fault, FileServer, make_certificate
from harness.git_server import GitServer, Origin

from .conftest import Here

TOKEN = "hf_SeCrEtTokenThatNobodyMaySee0123456789"
SIZE = 2 << 20


class ArgvWatch:
    """Reads argv and environment of every process 200 times in a second, as far as this machine can, while entered.

    In its environment it may have who was given it there: one in whose argv or environment stands one of *holders*.
    """

    def __init__(self, secret: str, *holders: str) -> None:
        self._secret = secret.encode()
        self._holders = [holder.encode() for holder in holders]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.looks = 0
        self.seen: list[str] = []

    def __enter__(self) -> ArgvWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.005):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    environment = (folder / "environ").read_bytes()
                    argv = (folder / "cmdline").read_bytes()
                except OSError:
                    continue
                is_holder = any(holder in argv + environment for holder in self._holders)
                if self._secret in argv or (self._secret in environment and not is_holder):
                    self.seen.append(repr(argv))
            self.looks += 1


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    return make_certificate(str(tmp_path), "localhost", "127.0.0.1")


@pytest.fixture
def instance_environment(certificate: str) -> dict[str, str]:
    """The instance trusts the test's own authority."""
    return {"SSL_CERT_FILE": certificate, "GIT_SSL_CAINFO": certificate}


def test_a_token_reaches_its_host_and_no_file_log_event_or_argv(here: Here, certificate: str) -> None:
    content = Content.safetensors(SIZE, seed=3)
    Origin(str(here.folder / "origins" / "node")).commit({"a.txt": "a"})
    with (
        FileServer("localhost", certificate=certificate) as host,
        FileServer("127.0.0.1") as other,
        GitServer(str(here.folder / "origins"), certificate=certificate, password=TOKEN) as git,
    ):
        other.add("/cdn.safetensors", content)
        header = ("Authorization", f"Bearer {TOKEN}")
        refused = Fault(status=401, unless_header=header)
        host.add("/gated.safetensors", content, refused)
        host.add("/away.safetensors", content, refused, Fault(redirect=other.url("/cdn.safetensors")))
        host.add("/odd.safetensors", content, Fault(status=500, body=f"your token {TOKEN} is odd".encode()))
        profile = here.profile(
            f"""
version: 1
name: secret
limits: {{run: 60s, attempts: 2}}
secrets: {{HF_TOKEN: {{hosts: [localhost, "127.0.0.1:{git.port}"]}}}}
repos: [{{url: "{git.smart("node")}", path: node, level: critical}}]
downloads:
  - {{url: "{host.url("/gated.safetensors")}", path: m/gated.safetensors, level: critical}}
  - {{url: "{host.url("/away.safetensors")}", path: m/away.safetensors, level: critical}}
  - {{url: "{host.url("/odd.safetensors")}", path: m/odd.safetensors, level: optional}}
commands:
  - {{name: uses it, run: [sh, -c, "echo got $HF_TOKEN; test -n \\"$HF_TOKEN\\""], secrets: [HF_TOKEN]}}
  - {{name: does not get it, run: [sh, -c, "test -z \\"$HF_TOKEN\\""]}}
"""
        )
        with ArgvWatch(TOKEN, "OF_THE_USER=yes", "echo got $HF_TOKEN") as watch:
            done = here.up(
                profile, "--run-id", "s", environment={"HF_TOKEN": f'"{TOKEN}" ', "OF_THE_USER": "yes"}
            )

    assert done.code == 0, done.stdout + done.stderr
    assert any(
        request.headers.get("authorization") == f"Bearer {TOKEN}"
        for request in host.seen("/gated.safetensors")
    )
    assert other.seen("/cdn.safetensors")
    assert not [request for request in other.seen("/cdn.safetensors") if "authorization" in request.headers]
    assert set(git.logins) == {"x-access-token"}
    assert watch.looks > 3
    assert watch.seen == []
    assert TOKEN not in done.stdout + done.stderr
    places = [here.folder, here.instance.workspace, here.instance.home]
    for path in (
        file for place in places for file in place.rglob("*") if file.is_file() and not file.is_symlink()
    ):
        assert TOKEN.encode() not in path.read_bytes(), path
    assert "got ***" in here.remote("s", "agent.log").read_text()


def test_a_command_that_writes_a_secret_into_the_workspace_is_told_and_the_verdict_stays(here: Here) -> None:
    profile = here.profile(
        """
version: 1
name: leak
limits: {run: 60s}
secrets: {API_KEY: {}}
commands: [{name: login, run: [sh, -c, "echo key=$API_KEY > settings.ini"], secrets: [API_KEY], level: critical}]
"""
    )
    done = here.up(profile, "--run-id", "s", environment={"API_KEY": TOKEN})

    assert (done.code, done.outcome["verdict"], done.outcome["next"]) == (0, "complete", "none"), done.stderr
    assert TOKEN not in done.stdout + done.stderr
    [error] = done.outcome["errors"]
    assert (error["item"], error["class"]) == ("settings.ini", "secret_in_file")
    assert error["message"] == "the value of `API_KEY` stands in `settings.ini`"
