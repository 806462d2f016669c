"""A second run of the same plan: what nothing has changed is not done again, and whatever has changed is noticed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness import comfyui_stand_in
from harness.agent_runs import AgentRuns, Told
from harness.environments import copy_of_environment
from harness.file_server import Content, FileServer
from harness.git_server import Origin, git
from harness.package_index import PackageIndex

pytestmark = pytest.mark.timeout(180)  # whole runs

NODE = "ComfyUI/custom_nodes/faces"
REQUIREMENTS = f"{NODE}/requirements.txt"
MODEL = "ComfyUI/models/checkpoints/m.safetensors"


class World(NamedTuple):
    runs: AgentRuns
    plan: dict[str, Any]
    index: PackageIndex
    files: FileServer

    @property
    def site_packages(self) -> Path:
        (found,) = (self.runs.workspace / "venv").glob("lib/python*/site-packages")
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A ComfyUI with a node, a package, a model and a service, after its first run."""
    folder = tmp_path_factory.mktemp("world")
    runs = AgentRuns(folder)
    runs.write("ComfyUI/main.py", Path(comfyui_stand_in.__file__).read_text())
    copy_of_environment(str(runs.workspace / "venv"))
    with socket.socket() as probe, pytest.MonkeyPatch.context() as patch, PackageIndex() as index:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        for name, value in index.environment.items():
            patch.setenv(name, value)
        index.add("face-models", "3")
        index.add("numpy", "2.1")
        origin = Origin(str(folder / "origins" / "faces"))
        origin.commit(
            {
                "__init__.py": "import face_models\nNODE_CLASS_MAPPINGS = {}\n",
                "requirements.txt": "face-models\n",
            }
        )
        origin.commit({"more.py": "x = 1\n"})
        with FileServer() as files:
            content = Content.safetensors(1 << 20, seed=1)
            files.add("/m.safetensors", content)
            url = f"http://127.0.0.1:{port}/system_stats"
            plan = {
                "python": {"venv": "venv", "installer": "pip", "layers": [{"packages": ["numpy"]}]},
                "repos": [
                    {"url": origin.url, "path": NODE, "install": "requirements.txt", "level": "critical"}
                ],
                "downloads": [{"url": files.url("/m.safetensors"), "path": MODEL, "sha256": content.sha256}],
                "checks": [{"name": "Packages", "imports": ["numpy", "face_models"], "level": "critical"}],
                "services": [
                    {
                        "name": "comfyui",
                        "run": ["python", "main.py", "--port", str(port)],
                        "directory": "ComfyUI",
                        "ready": {"url": url, "within_s": 60, "successes": 2},
                    }
                ],
            }
            told = runs.run(plan)
            assert told.verdict == "complete", told.events[-12:]
            yield World(runs, plan, index, files)
            runs.stop_services()


def again(world: World) -> Told:
    world.index.requests.clear()
    told = world.runs.run(world.plan)
    assert told.verdict == "complete", told.events[-12:]
    return told


def test_where_nothing_has_changed_nothing_is_done_and_what_was_looked_at_is_said(world: World) -> None:
    again(world)  # whatever another test left is mended by now
    before = world.files.bytes_sent("/m.safetensors")

    told = again(world)

    done = {each["event"] for each in told.events if each["event"].endswith(("_finished", "_restarted"))}
    assert done == {"step_finished", "run_finished"}
    assert world.index.requests == [] and world.files.bytes_sent("/m.safetensors") == before
    (unchanged,) = told.of("unchanged")
    counted = [unchanged[name] for name in ("repositories", "files", "services")]
    assert counted == [1, 1, 1] and unchanged["packages"] >= 3, unchanged
    assert "1 repository, 1 file, 1 service unchanged: looked at size and time of all" in unchanged["message"]
    assert [each["adopted"] for each in told.of("service_started")] == [True]
    assert told.of("check_passed", "Packages")[0]["found"] == 2


def spoil_record(world: World) -> None:
    """A byte, at the same length."""
    (record,) = world.site_packages.glob("face_models-*.dist-info/RECORD")
    record.write_text(record.read_text().replace("sha256=", "sha265=", 1))


def remove_package(world: World) -> None:
    for path in world.site_packages.glob("numpy-*.dist-info/*"):
        path.unlink()


def change_package(world: World) -> None:
    (world.site_packages / "face_models/__init__.py").write_text("")


def switch_commit(world: World) -> None:
    git(str(world.runs.workspace / NODE), "fetch", "-q", "--unshallow", "origin")
    git(str(world.runs.workspace / NODE), "checkout", "-q", "HEAD~1")


def lose_tracked_file(world: World) -> None:
    (world.runs.workspace / NODE / "more.py").unlink()


def touch_model(world: World) -> None:
    os.utime(world.runs.workspace / MODEL, ns=(1, 1))


def spoil_model(world: World) -> None:
    with (world.runs.workspace / MODEL).open("r+b") as file:
        file.seek(1000)
        file.write(b"other bytes")


def kill_service(world: World) -> None:
    for name in ("supervisor", "child"):
        os.kill(world.runs.status("comfyui")[name]["pid"], signal.SIGKILL)


@pytest.mark.parametrize(
    ("change", "event", "item"),
    [
        (spoil_record, "unchanged", None),
        (remove_package, "package_finished", "numpy"),
        (change_package, "package_finished", REQUIREMENTS),
        (switch_commit, "repo_finished", NODE),
        (lose_tracked_file, "warning", None),
        (touch_model, "download_skipped", MODEL),
        (spoil_model, "download_finished", MODEL),
        (kill_service, "service_started", "comfyui"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_what_has_changed_is_noticed_and_put_right(
    change: Callable[[World], None], event: str, item: str | None, world: World
) -> None:
    change(world)

    told = again(world)

    found = told.of(event, item)
    if event == "unchanged":
        assert found == [], "it was looked at in full"
    elif event == "service_started":
        assert [each["adopted"] for each in found] == [False]
    else:
        assert found != []
    if event == "warning":
        assert (world.runs.workspace / NODE / "more.py").is_file()
