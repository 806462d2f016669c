"""The agent's single file: the same bytes every time, and a whole run on whatever python3 there is."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from harness.content import Content
from harness.file_server import FileServer
from interpreters import interpreters
from provision_agent.contract.plan import Check, Download, Plan
from provision_agent.contract.plan_parts import ItemLimits, Stall
from provision_collector.instance import build_bundle, bundle

PYTHONS = {".".join(map(str, version)): path for version, path in sorted(interpreters().items())} or {
    "this": sys.executable
}
OLDEST_AND_NEWEST = (*list(PYTHONS)[:1], *list(PYTHONS)[-1:])
VERSIONS = [
    pytest.param(version, marks=() if version in OLDEST_AND_NEWEST else pytest.mark.soak)
    for version in PYTHONS
]
MARK = b"\x02provision-answer "


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "agent.pyz"
    path.write_bytes(build_bundle().data)
    return path


def ask(python: str, archive: Path, subcommand: str, request: dict[str, Any], home: Path) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-I", "-S", str(archive), subcommand],
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=25,
        check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
    )
    return dict(json.loads(done.stdout.rpartition(MARK)[2]))


def test_the_same_sources_make_the_same_bytes() -> None:
    first = build_bundle()
    bundle._build.cache_clear()

    assert build_bundle().sha256 == first.sha256
    names = zipfile.ZipFile(BytesIO(first.data)).namelist()
    assert "provision_agent/downloads/queue.py" in names
    assert not [name for name in names if name.endswith(".pyc")]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_needs_only_a_bare_python(version: str, archive: Path, tmp_path: Path) -> None:
    python, content = PYTHONS[version], Content.safetensors(1 << 20)
    (tmp_path / "home").mkdir()
    with FileServer() as server:
        limits = ItemLimits(stall=Stall(for_s=5.0), connect_s=5.0, lookup_s=5.0, attempts=2)
        plan = Plan(
            name="bare",
            workspace=str(tmp_path / "w"),
            downloads=(
                Download(
                    server.add("/m.safetensors", content), "m.safetensors", level="critical", limits=limits
                ),
            ),
            checks=(Check("it is there", path="m.safetensors", level="critical"),),
        )
        order = {"run": "r", "plan": plan.to_json(), "secrets": {}, "started_unix": 1}
        started = ask(python, archive, "start", order, tmp_path / "home")
        events = Path(started["files"]["events"])
        end = subprocess.run(
            ["timeout", "20", "sh", "-c", f"until grep -q run_finished {events}; do sleep 0.1; done"],
            check=False,
        )

    assert end.returncode == 0, (events.with_name("agent.log")).read_text()
    assert json.loads(events.read_text().splitlines()[-1])["verdict"] == "complete"
    assert (tmp_path / "w/m.safetensors").read_bytes() == content.bytes()
    [found] = ask(python, archive, "status", {"workspace": str(tmp_path / "w")}, tmp_path / "home")["runs"]
    assert (found["state"], found["downloads"]["m.safetensors"]["state"]) == ("complete", "done")


def test_stop_right_after_start_stops_it(archive: Path, tmp_path: Path) -> None:
    """The keeper may not have written its name yet."""
    (tmp_path / "home").mkdir()
    workspace = tmp_path / "w"
    command = {"name": "wait", "run": ["sleep", "60"]}
    plan = Plan.from_json({**Plan(name="long", workspace=str(workspace)).to_json(), "commands": [command]})
    order = {"run": "r", "plan": plan.to_json(), "secrets": {}, "started_unix": 1}
    started = ask(sys.executable, archive, "start", order, tmp_path / "home")

    stopped = ask(sys.executable, archive, "stop", {"workspace": str(workspace)}, tmp_path / "home")

    assert (stopped["stopped"], stopped["verdict"]) == (True, "cancelled")
    events = [json.loads(line) for line in Path(started["files"]["events"]).read_text().splitlines()]
    assert [event["event"] for event in events].count("run_finished") == 1
    assert events[-1]["event"] == "run_finished"
    assert json.loads((workspace / ".provision/lock").read_text())["released"]
