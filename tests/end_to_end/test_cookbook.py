"""The pages of docs/COOKBOOK.md on files and bundles: their commands, on a real instance, do what the page says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Finished, Here, eventually

pytestmark = pytest.mark.timeout(240)

PAGE = (Path(__file__).parents[2] / "docs" / "COOKBOOK.md").read_text(encoding="utf-8")
PROFILES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
STAND_IN = """name: cookbook
commands:
  - {name: paint, run: [sh, -c, "mkdir -p ComfyUI/output; echo red > ComfyUI/output/a.png"], timeout: 1m}
"""
"""In the place of ComfyUI, which takes gigabytes."""


def commands_of(about: str) -> Iterator[list[str]]:
    """The words of each command in the blocks of the page's part *about*."""
    part = PAGE.partition(f"\n## {about}")[2].partition("\n## ")[0]
    for block in re.findall(r"^```sh\n(.*?)^```$", part, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            yield shlex.split(line, comments=True)[1:]


def run(here: Here, words: list[str], run_id: str = "") -> Finished:
    """A command as it stands there, with this test's instance and run."""
    told = [run_id if word == "RUN" else word for word in words]
    if "--host" in told:
        at = told.index("--host")
        where = ["--workspace", str(here.instance.workspace)]
        told[at : at + 2] = [*here.connection(), *where]
    done = here.run(*told, within_s=120)
    assert done.code == 0, (words, done.stdout, done.stderr)
    return done


def test_the_commands_for_files_do_what_the_page_says(here: Here) -> None:
    page = [text.replace("extends: comfyui\n", STAND_IN) for text in PROFILES if "outputs:" in text]
    my = next(text for text in page if "uploads:" in text)
    (here.folder / "loras").mkdir()
    (here.folder / "loras" / "ink.safetensors").write_bytes(b"ink")
    (here.folder / "extra_model_paths.yaml").write_text("{}\n")
    (here.folder / "style.safetensors").write_bytes(b"style")
    here.profile(my, "my.yaml")
    there = here.instance.workspace / "ComfyUI"

    check, up = commands_of("Uploads")
    assert "2 uploads" in run(here, check).stdout
    run_id = run(here, up).stdout.strip()
    assert (there / "models" / "loras" / "ink.safetensors").read_bytes() == b"ink"
    attach, status = commands_of("Outputs")
    run(here, attach, run_id)
    assert (here.folder / "home" / "pictures" / "a.png").read_text() == "red\n"
    assert "1 output home" in run(here, status, run_id).stdout
    to_there, home, follow = commands_of("Copy")
    run(here, to_there, run_id)
    assert (there / "models" / "loras" / "style.safetensors").read_bytes() == b"style"
    run(here, home, run_id)
    assert (here.folder / "pictures" / "a.png").read_text() == "red\n"
    child = here.spawn(*(run_id if word == "RUN" else word for word in follow))
    (there / "output" / "b.png").write_text("blue")
    eventually(lambda: (here.folder / "pictures" / "b.png").read_text() == "blue", within_s=60)
    os.killpg(child.pid, signal.SIGINT)
    assert here.finish(child, within_s=60).code in (0, 130)


def test_the_commands_for_a_bundle_do_what_the_page_says(here: Here) -> None:
    text = next(text for text in PROFILES if "outputs:" in text and "uploads:" not in text)
    here.profile(text.replace("extends: comfyui\n", STAND_IN), "boot.yaml")

    bundle, attach = commands_of("Bundle")
    run(here, [*bundle, "--workspace", str(here.instance.workspace)])
    booted = subprocess.run(
        ["python3", str(here.folder / "boot.py")], env=here.instance._environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert booted.returncode == 0, booted.stdout + booted.stderr
    run(here, attach)

    assert (here.folder / "home" / "pictures" / "a.png").read_text() == "red\n"
