"""An instance that was stopped and started again: its container's disk is new, the volume with the workspace is not."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from harness.content import Content
from harness.file_server import FileServer
from harness.git_server import GitServer, Origin
from harness.package_index import PackageIndex
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import Finished, Here

SIZE = 2 << 20


def environment(index: PackageIndex) -> dict[str, str]:
    uv = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    if uv is None:
        pytest.skip("there is no uv here")
    return {**index.environment, "PATH": f"{os.path.dirname(uv)}:/usr/bin:/bin:/usr/sbin:/sbin"}


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_after_a_stop_and_a_start_nothing_is_fetched_that_the_volume_has(
    here: Here, files: FileServer, tmp_path: Path
) -> None:
    """The environment stays on the container's own disk: over a network it would be slow. Models and wheels are kept."""
    volume = tmp_path / "volume" / "workspace"
    content = Content.safetensors(SIZE, seed=1)
    files.add("/m.safetensors", content)
    Origin(str(tmp_path / "origins" / "node")).commit({"requirements.txt": "einops\n"})

    def up(instance: EmbeddedInstance, profile: str) -> Finished:
        words = ["up", "--profile", profile, *here.connection(to=instance), "--workspace", str(volume)]
        done = here.run(*words, "--json", within_s=60)
        assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout[-3000:]
        return done

    with PackageIndex(is_modern=True) as index, GitServer(str(tmp_path / "origins")) as git:
        index.add("numpy", "2.1")
        index.add("einops", "0.8")
        profile = here.profile(f"""
version: 1
python:
  venv: ~/venv
  wheels: wheels
  installer: uv
  layers: [[numpy]]
repos: [{{url: "{git.smart("node")}", path: node, install: requirements.txt, level: critical}}]
downloads: [{{url: "{files.url("/m.safetensors")}", path: models/m.safetensors, sha256: {content.sha256}}}]
checks: [{{name: Packages, imports: [numpy, einops], level: critical}}]
""")
        with EmbeddedInstance(tmp_path / "first", server="sshd", environment=environment(index)) as first:
            up(first, profile)
            address = (first.port, first.host_key_path.read_bytes())
        shutil.rmtree(tmp_path / "first")
        sent, asked = files.bytes_sent("/m.safetensors"), len(index.requests)

        with EmbeddedInstance(tmp_path / "second", server="sshd", environment=environment(index)) as second:
            assert address[0] != second.port and address[1] != second.host_key_path.read_bytes()
            done = up(second, profile)
            assert (second.home / "venv" / "bin" / "python").exists()

        assert files.bytes_sent("/m.safetensors") == sent
        assert [path for path in index.requests[asked:] if path.endswith(".whl")] == []
        assert done.outcome["bytes_downloaded"] == 0
        assert done.outcome["downloads"]["failed"] == 0
