"""The examples in docs/examples, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.file_server import Fault, FileServer
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import eventually
from .server import TOKEN, Server
from .test_up import free_port, profile_of

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DRILL = EXAMPLES.parents[1] / "examples" / "pool-drill" / "drill.py"
NODE = shutil.which("node")


@pytest.fixture
def instances(tmp_path: Path, instance: EmbeddedInstance) -> Iterator[list[EmbeddedInstance]]:
    others = [EmbeddedInstance(tmp_path / f"other{number}", server="sshd") for number in range(2)]
    for other in others:
        other.start()
        allow_same_key(other, instance)
    yield [instance, *others]
    for other in others:
        other.switch_off()


def allow_same_key(other: EmbeddedInstance, first: EmbeddedInstance) -> None:
    """A pool has one key for all its instances."""
    (authorized,) = [path for path in first.key_path.parent.rglob("authorized_keys") if path.is_file()]
    target = next(path for path in other.key_path.parent.rglob("authorized_keys") if path.is_file())
    target.write_bytes(authorized.read_bytes())


def test_the_node_pool_keeps_its_instances_usable(
    tmp_path: Path, instances: list[EmbeddedInstance], files: FileServer
) -> None:
    if NODE is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no node on this machine")
    server = Server(tmp_path / "server")
    server.start()
    profile = tmp_path / "profile.yaml"
    profile.write_text(profile_of(files))
    files.set_faults("/required.safetensors", Fault(bytes_per_s=10_000))
    first = instances[0]
    off = f"127.0.0.1:{free_port()}"
    addresses = [f"{i.host}:{i.port}" for i in instances]
    said = tmp_path / "said"
    with said.open("wb") as output:
        pool = subprocess.Popen(
            [NODE, str(EXAMPLES / "warm_pool.mjs"), "--want", "2", "--profile", str(profile), "--user", first.user,
             "--key", str(first.key_path), "--workspace", "~/work", "--boot-grace", "1s", off, *addresses],
            env={"PATH": os.environ["PATH"], "PROVISION_URL": f"http://127.0.0.1:{server.port}", "PROVISION_TOKEN": TOKEN},
            stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        eventually(lambda: said.read_text().count("usable after") == 2)
        assert f"{off}: unreachable, next: fix_address" in said.read_text()
        first.switch_off()
        eventually(lambda: f"{addresses[0]}: instance-gone, next: replace_instance" in said.read_text())
        server.kill()
        server.start()
        eventually(lambda: f"{addresses[2]}: usable after" in said.read_text())
        going = {run["host"]: run["state"] for run in server.get("/api/runs?state=going")["runs"]}
        assert going == {addresses[1]: "usable", addresses[2]: "usable"}, said.read_text()
    finally:
        pool.kill()
        pool.wait()
        server.close()


def test_the_python_pool_keeps_its_instances_usable(
    tmp_path: Path, instances: list[EmbeddedInstance], files: FileServer
) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(profile_of(files))
    files.set_faults("/required.safetensors", Fault(bytes_per_s=10_000))
    first = instances[0]
    off = f"127.0.0.1:{free_port()}"
    addresses = [f"{i.host}:{i.port}" for i in instances]
    said = tmp_path / "said"
    with said.open("wb") as output:
        pool = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "warm_pool.py"), str(profile), off, *(f"{first.user}@{a}" for a in addresses),
             "--want", "2", "--key", str(first.key_path), "--workspace", "~/work", "--boot-grace", "1"],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")},
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        eventually(lambda: said.read_text().count("usable after") == 2)
        assert f"{off}: unreachable, next: fix_address" in said.read_text()
        first.switch_off()
        eventually(lambda: f"{addresses[0]}: instance-gone, next: replace_instance" in said.read_text())
        eventually(lambda: f"{addresses[2]}: usable after" in said.read_text())
        instances[1].switch_off()
        assert pool.wait(20) == 1, said.read_text()
        assert "there are no more instances for rent" in said.read_text()
    finally:
        pool.kill()
        pool.wait()


@pytest.mark.timeout(560)
def test_the_drill_of_a_pool_counts_as_its_server_does() -> None:
    words = ["--runs", "4", "--want", "4", "--median", "0.2", "--hang", "0", "--lemons", "25", "--use", "0", "--patience", "400"]  # fmt: skip

    done = subprocess.run([sys.executable, str(DRILL), *words], capture_output=True, text=True, timeout=500)

    assert done.returncode == 0, done.stderr
    assert "| became usable | 3 (75.0 %) |" in done.stdout
    assert re.search(r"\| lemon instances, \d+ s each \| 1 failed \|", done.stdout)
    assert re.search(r"provision_profile_runs_ended_total{.*verdict=\"complete\"} 3.0", done.stdout)
    assert re.search(r"provision_instances_refused_total{card=\"NVIDIA.*} 1.0", done.stdout)
