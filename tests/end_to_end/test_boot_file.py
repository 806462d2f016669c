"""The file of `provision bundle`: a run that begins on the instance with nobody there, and is one of ours for who comes later."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from harness.file_server import FileServer
from interpreters import interpreters

from .conftest import Here, eventually
from .test_survival import big_profile, landed, lift

pytestmark = pytest.mark.timeout(240)

TOKEN = "hf_SeCrEtTokenOfTheInstance0123456789abc"
OLDEST = dict(sorted(interpreters().items())).get((3, 8), sys.executable)
COMMANDS = """
secrets: {HF_TOKEN: {hosts: [huggingface.co]}, UNSET_TOKEN: {hosts: [example.org]}}
commands:
  - {name: gets it, run: [sh, -c, 'echo got $HF_TOKEN; test -n "$HF_TOKEN"'], secrets: [HF_TOKEN], level: critical}
  - {name: gets none, run: [sh, -c, 'test -z "$HF_TOKEN$HUGGING_FACE_HUB_TOKEN"'], level: critical}
"""


def boot(here: Here, file: Path) -> subprocess.CompletedProcess[str]:
    """What the provider does when the instance starts, on the oldest Python that an image may have."""
    environment = {**here.instance._environment, "HF_TOKEN": f'"{TOKEN}"'}
    return subprocess.run(
        [OLDEST, str(file)],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def all_text(file: Path) -> bytes:
    """The file, and what is packed in it."""
    text = file.read_bytes()
    packed = re.findall(rb'= """\n(.+?)\n"""', text, re.DOTALL)
    return text + b"".join(zlib.decompress(base64.b64decode(each)) for each in packed)


def test_a_run_that_began_with_nobody_there_survives_a_kill_is_joined_by_up_and_comes_home_whole(
    here: Here, files: FileServer
) -> None:
    profile = here.profile(big_profile(files) + COMMANDS)
    where = ["--workspace", str(here.instance.workspace)]
    made = here.run("bundle", profile, "-o", "boot.py", *where, environment={"HF_TOKEN": TOKEN})
    file = here.folder / "boot.py"
    assert made.code == 0 and "no secret is in it" in made.stdout, made.stderr
    assert len(file.read_bytes()) < 1 << 20
    assert TOKEN.encode() not in all_text(file) and b"provision_agent/run/start.py" in all_text(file)

    begun = boot(here, file)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    assert "has begun in" in begun.stdout and "`UNSET_TOKEN` is not set" in begun.stdout
    eventually(lambda: landed(files), within_s=60)
    holder = here.lock()
    for role in ("keeper", "agent"):
        assert TOKEN.encode() not in Path(f"/proc/{holder[role]['pid']}/environ").read_bytes(), role
    os.kill(holder["keeper"]["pid"], signal.SIGKILL)
    os.kill(holder["agent"]["pid"], signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{holder['agent']['pid']}").exists())
    again = boot(here, file)
    assert again.returncode == 0 and "goes on in" in again.stdout, again.stdout + again.stderr
    child = here.spawn_up(profile)
    eventually(lambda: here.said(child).count('"run_started"') == 2, within_s=60)
    lift()
    joined = here.finish(child, within_s=60)
    later = here.run(
        "attach", *here.connection(), *where, "--json", "--logs-dir", "elsewhere", within_s=60,
        environment={"XDG_STATE_HOME": str(here.folder / "another")},
    )  # fmt: skip

    run = re.findall(r"`(\S+)` has begun", begun.stdout)[0]
    for done in (joined, later):
        assert (done.code, done.outcome["verdict"], done.outcome["run"]) == (0, "complete", run), done.stdout
        here.assert_mirrored(done.outcome)
    for place in (here.folder, here.instance.workspace, here.instance.home):
        for path in place.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert "got ***" in here.remote(run, "agent.log").read_text()


def test_a_file_says_what_goes_on_there_and_what_it_lacks(here: Here) -> None:
    text = "version: 1\nname: p\ncommands: [{name: c, run: [sleep, '%s'], level: critical}]\n"
    where = ["--workspace", str(here.instance.workspace)]
    files = {}
    for name in ("61", "62"):
        profile = here.profile(text % name, f"p{name}.yaml")
        assert here.run("bundle", profile, "-o", f"{name}.py", *where).code == 0
        files[name] = here.folder / f"{name}.py"
    shown = subprocess.run([OLDEST, str(files["61"]), "--show"], capture_output=True, text=True, check=True)
    first, again, other = (boot(here, files[name]) for name in ("61", "61", "62"))

    assert '"name": "p"' in shown.stdout
    assert (first.returncode, again.returncode, other.returncode) == (0, 0, 4)
    assert "of the same plan is going already" in again.stdout
    assert "of another plan is going" in other.stdout and "commands" in other.stdout
    assert "next: `provision stop" in other.stdout and "bundle --replace" in other.stdout
