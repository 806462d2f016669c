"""A whole repository of a model hub as one item: planned, brought, verified, audited and mended file by file."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.content import Content
from harness.file_server import FileServer

from .conftest import Here

SIZE = 1 << 20
FILES = {
    "unet/a.safetensors": Content.safetensors(SIZE, seed=1),
    "vae/b.safetensors": Content.safetensors(SIZE, seed=2),
    "vae/b.fp16.safetensors": Content.safetensors(SIZE, seed=3),
    "README.md": Content.of(b"hello"),
}
PROFILE = """
version: 1
name: hub
limits: {run: 60s, attempts: 2}
downloads:
  - {url: "hf://owner/name", path: models/name/, include: ["*.safetensors"], exclude: ["*.fp16.*"], level: critical}
"""


@pytest.fixture
def instance_environment(files: FileServer) -> dict[str, str]:
    files.add_hub("owner/name", FILES)
    return {"HF_ENDPOINT": files.url("").rstrip("/")}


def brought(here: Here) -> dict[str, bytes]:
    folder = here.instance.workspace / "models/name"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_wanted_files_of_a_repository_are_brought_and_one_that_goes_missing_is_mended(
    here: Here, files: FileServer
) -> None:
    profile = here.profile(PROFILE)
    at = ["--profile", profile, "--workspace", str(here.instance.workspace), *here.connection(), "--json"]

    plan = here.run("plan", *at).lines[0]
    first = here.up(profile)
    sent = files.bytes_sent("/owner/name/resolve/main/unet/a.safetensors")
    second = here.up(profile)
    (here.instance.workspace / "models/name/vae/b.safetensors").unlink()
    mended = here.run("audit", *at, "--repair")

    assert (plan["total_bytes"], plan["fetch_bytes"]) == (2 * SIZE, 2 * SIZE)
    assert (first.code, first.outcome["downloads"]["ok"]) == (0, 2), first.stdout
    assert second.outcome["downloads"]["ok"] == 2
    assert files.bytes_sent("/owner/name/resolve/main/unet/a.safetensors") < sent + SIZE // 2
    assert mended.code == 0, mended.stdout
    assert brought(here) == {
        name: FILES[name].bytes() for name in ("unet/a.safetensors", "vae/b.safetensors")
    }


def test_a_repository_that_is_not_there_fails_by_its_own_name(here: Here, files: FileServer) -> None:
    profile = here.profile(PROFILE.replace("owner/name", "owner/nothing"))

    done = here.up(profile)
    lock = here.run("lock", profile, environment={"HF_ENDPOINT": files.url("").rstrip("/")})

    assert done.code == 1
    [error] = done.outcome["errors"]
    assert (error["class"], error["item"], error["level"]) == (
        "not_found",
        "models/name/ from hf://owner/nothing",
        "critical",
    )
    errors = Path(done.outcome["logs"]["errors"]).read_text()
    assert "FAILED: models/name/ from hf://owner/nothing (not_found" in errors
    assert lock.code == 1 and "list those of hf://owner/nothing" in lock.stderr


def test_two_items_of_one_repository_are_planned_by_their_own_patterns(here: Here) -> None:
    profile = here.profile(
        """
version: 1
downloads:
  - {url: "hf://owner/name", path: models/unet/, include: ["unet/*"]}
  - {url: "hf://owner/name", path: models/vae/, include: ["vae/*"]}
"""
    )

    plan = here.run("plan", "--profile", profile, *here.connection(), "--json").lines[0]

    assert [(file["path"], file["missing_bytes"]) for file in plan["files"]] == [
        ("models/unet/", SIZE),
        ("models/vae/", 2 * SIZE),
    ]
