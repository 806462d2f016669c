"""The agent dies while it fetches and installs wheels: what has come is not fetched again, what is half there is not believed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import provision_agent
import pytest
from harness.content import Content
from harness.environments import copy_of_environment
from harness.package_index import PackageIndex

MIB = 1 << 20
CONNECTIONS = 2
PART_BYTES = 4 * MIB
ROOT = Path(provision_agent.__file__).parent.parent
WORKER = f"""
import json, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent.parent)!r}]
from harness.environments import Surroundings
from provision_agent.contract.plan import Layer, Python
from provision_agent.contract.plan_parts import Limits
from provision_agent.downloads import Downloads, Sources
from provision_agent.steps import orphans
from provision_agent.steps.python import packages
from provision_agent.steps.python.locked_install import LockedInstalls
from provision_agent.steps.python.venv import Venv
from provision_agent.steps.python.wheel_store import WheelStore

workspace, names = sys.argv[1], sys.argv[2:]
here = Surroundings(workspace)
orphans.end(here.context)
limits = Limits(connections={CONNECTIONS}, files=1)
engine = Downloads([], limits, here.context, Sources(rules=(), secrets={{}}))
store = WheelStore(here.context, workspace + "/.provision/wheels", limits=limits, line=engine.line)
venv = Venv(workspace + "/venv", workspace + "/venv/bin/python", False)
wanted = Python(installer="uv", retries=0, layers=tuple(Layer(packages=(name,)) for name in names))
print("begins", flush=True)
facts = {{"gpus": [], "cuda": None}}
packages.install(wanted, venv, here.context, facts, by_lock=LockedInstalls(store, here.context))
print(json.dumps([name for name, _ in here.events if name in ("package_finished", "package_skipped")]), flush=True)
"""


CHECKER = """
import base64, csv, hashlib, importlib, pathlib, sys, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
for name in sys.argv[1:]:
    importlib.import_module(name)
    seen = 0
    for path, told, size in csv.reader((site / f"{name}-1.0.dist-info" / "RECORD").read_text().splitlines()):
        if told:
            data = (site / path).read_bytes()
            kind, _, digest = told.partition("=")
            own = base64.urlsafe_b64encode(hashlib.new(kind, data).digest()).rstrip(b"=").decode()
            assert (own, len(data)) == (digest, int(size)), path
            seen += 1
    assert seen >= 6, name
"""
"""By the hashes that each distribution recorded, and by its import; none of the product's own code."""


def children_of(process: int) -> list[int]:
    """All below *process*, as /proc has them."""
    found, left = [], [process]
    while left:
        for path in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            more = [int(word) for word in path.read_text().split()]
            found += more
            left += more
    return found


def end_at_once(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended by itself


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex(is_modern=True) as index:
        for number in range(3):
            text = bytes(Content(MIB, seed=number).read(0, MIB)).hex() * (PART_BYTES // (2 * MIB))
            files = {f"big{number}/data{part}.txt": text for part in range(3)}
            files[f"big{number}/__init__.py"] = ""
            requires = [f"big{number - 1}"] if number else []
            index.add(f"big{number}", "1.0", files=files, requires=requires)
        yield index


def killed_until_it_is_done(
    index: PackageIndex, folder: Path, uv: str, *, kills: int, seed: int, bytes_per_s: int
) -> None:
    chance = random.Random(seed)
    copy_of_environment(str(folder / "venv"))
    index.bytes_per_s = bytes_per_s
    told = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))},
        **index.environment,
        "PATH": f"{os.path.dirname(uv)}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-c", WORKER, str(folder), "big1", "big2"]
    for _ in range(kills):
        worker = subprocess.Popen(command, env=told, stdout=subprocess.PIPE)
        assert worker.stdout is not None and worker.stdout.readline() == b"begins\n"
        time.sleep(chance.uniform(0.0, 2.0))  # the moment is what is tried here
        beneath = children_of(worker.pid) if chance.random() < 0.5 else []
        os.kill(worker.pid, signal.SIGKILL)
        for child in beneath:
            end_at_once(child)
        worker.wait()
        worker.stdout.close()
    index.bytes_per_s = 0
    done = subprocess.run(command, env=told, stdout=subprocess.PIPE, timeout=60, check=True)

    assert len(json.loads(done.stdout.splitlines()[-1])) == 2
    allowed = 9 * PART_BYTES * 1.02 + kills * CONNECTIONS * MIB
    assert sum(index.wheel_bytes.values()) <= allowed, index.wheel_bytes
    print(f"seed {seed}: {sum(index.wheel_bytes.values()) / (9 * PART_BYTES):.3f} of what is needed came")
    checked = subprocess.run(
        [str(folder / "venv" / "bin" / "python"), "-I", "-c", CHECKER, "big0", "big1", "big2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout.decode()


@pytest.mark.timeout(240)
def test_wheels_that_were_coming_when_the_agent_was_killed_go_on_where_they_were(
    index: PackageIndex, tmp_path: Path, uv: str
) -> None:
    killed_until_it_is_done(index, tmp_path, uv, kills=2, seed=1, bytes_per_s=4 * MIB)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(8))
def test_twenty_kills_at_random_moments_fetch_nothing_twice_and_leave_nothing_half_installed(
    index: PackageIndex, tmp_path: Path, uv: str, seed: int
) -> None:
    killed_until_it_is_done(index, tmp_path, uv, kills=20, seed=seed, bytes_per_s=MIB)
