"""docs/GETTING_STARTED.md as a newcomer follows it, against a real sshd: its profile, its commands, its service."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

from .conftest import Here
from .test_up import free_port

PAGE = (Path(__file__).parents[2] / "docs" / "GETTING_STARTED.md").read_text()


def test_the_first_profile_of_the_page_runs_and_its_service_answers(here: Here) -> None:
    [text] = re.findall(r"```yaml\n(version: 1\nname: hello.*?)```", PAGE, re.DOTALL)
    port = free_port()
    hello = here.profile(text.replace("8080", str(port)), "hello.yaml")
    where = [*here.connection(), "--workspace", str(here.instance.workspace)]

    checked = here.run("check", hello)
    looked = here.run("doctor", *here.connection())
    done = here.run("up", *where, "--profile", hello)
    assert (checked.code, looked.code, done.code) == (0, 0, 0), (checked, looked, done)
    listed = here.run("services", "list", *here.connection())
    shown = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read().decode()
    stopped = here.run("services", "stop", "site", *here.connection())

    assert "complete in" in done.stdout
    assert shown.startswith("<h1>It works</h1>")
    assert f"site  answers  http://127.0.0.1:{port}/" in listed.stdout, listed.stderr
    assert stopped.code == 0
