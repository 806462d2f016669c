"""The agent that `start` begins runs code that was compiled from the archive that was verified, and from nothing else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from interpreters import interpreters
from provision_agent.contract.loading import loader
from provision_collector.instance import build_bundle

FOUND = interpreters()
PYTHONS = {".".join(map(str, version)): FOUND[version] for version in {min(FOUND), max(FOUND)}}
PROGRAM = """
import builtins, json, os, time
from provision_agent.host import early_code, fork

compiled = []
def compiling(source, name, kind, *rest, compile=builtins.compile, **more):
    if name.startswith(path):
        compiled.append(os.path.relpath(name, path))
    return compile(source, name, kind, *rest, **more)

early_code.begin()
finder = next(each for each in sys.meta_path if hasattr(each, "sha256"))
os.wait()  # all is compiled
open(path, "w").write("raise SystemExit('somebody else')")
builtins.compile = compiling
early_code.use()
import provision_agent.run.run
early_code.end()
early = len(compiled)
import provision_agent.commands.audit
module = provision_agent.run.run
print(json.dumps({
    "rooms": sorted({each.split("/")[1] for each in compiled[:early] if each.count("/") > 1}),
    "later": "provision_agent/commands/audit.py" in compiled[early:],
    "file": os.path.relpath(module.run_main.__code__.co_filename, path),
    "left": early_code.descriptors() == () and "early" not in vars(finder),
}))
"""


@pytest.mark.parametrize("version", sorted(PYTHONS))
def test_what_was_compiled_beside_is_run_and_nothing_that_lies_on_the_disk(
    version: str, tmp_path: Path
) -> None:
    archive = tmp_path / "agent.pyz"
    archive.write_bytes(build_bundle().data)
    words = [PYTHONS[version], "-I", "-S", "-c", loader(PROGRAM), str(archive), build_bundle().sha256]

    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "rooms": ["contract"],  # which `start` itself has loaded by then
        "later": True,
        "file": "provision_agent/run/run.py",
        "left": True,
    }
