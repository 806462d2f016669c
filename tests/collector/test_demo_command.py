"""`provision demo` as a stranger runs it: the published command, no trace afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from provision_collector.cli.options import instance_of
from provision_collector.cli.up import command as up
from provision_collector.demo.instance import MARK
from provision_collector.demo.stage import Stage, set_up
from provision_collector.profile import compile_plan, load_profile

PROVISION = [sys.executable, "-c", "from provision_collector.cli import main; main()", "demo"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with set_up(tmp_path / "a folder: with # odd 'characters'") as stage:
        yield stage


def test_the_profile_is_valid_and_every_source_is_what_the_profile_says_of_it(stage):
    plan = compile_plan(load_profile(str(stage.profile)))

    assert plan.workspace == str(stage.instance.workspace)
    for download in plan.downloads:
        url = download.mirrors[0] if download.mirrors else download.url
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert int(answer.headers["Content-Length"]) == download.size_bytes
            assert answer.headers["ETag"].strip('"') == download.sha256


def test_up_understands_the_arguments_and_finds_the_instance_in_them(stage):
    context = up.make_context("up", stage.arguments[1:])
    options = {name: context.params[name] for name in ("host", "key", "known_hosts", "ssh_config")}
    instance = instance_of(options)

    assert (instance.host, instance.port, instance.user) == (
        "127.0.0.1",
        stage.instance.port,
        stage.instance.user,
    )


def demo(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment.update(HOME=str(home), TMPDIR=str(tmp_path))
    return subprocess.Popen(
        [*PROVISION, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of(directory: str) -> list[bytes]:
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={directory}".encode() in file.read_bytes():
                found.append((file.parent / "cmdline").read_bytes())
        except OSError:
            continue
    return found


def assert_no_trace(tmp_path: Path, stderr: str) -> None:
    folder = re.search(r"folder +(\S+)", stderr)
    assert folder is not None
    assert processes_of(folder[1]) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "home"]
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_it_ends_complete_with_the_exit_code_of_up_and_leaves_nothing_behind(tmp_path):
    with demo(tmp_path) as process:
        stdout, stderr = process.communicate(timeout=100)

    assert process.returncode == 0, stdout + stderr
    assert "✅ complete" in stdout
    assert "download switched" in stdout
    assert "service ready" in stdout
    assert re.search(r"instance +127\.0\.0\.1:\d+  (OpenSSH sshd|asyncssh)", stderr)
    assert_no_trace(tmp_path, stderr)


@pytest.mark.parametrize(
    "sign",
    [
        signal.SIGINT,
        *(pytest.param(sign, marks=pytest.mark.soak) for sign in (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_a_signal_in_the_middle_leaves_nothing_behind(tmp_path, sign):
    with demo(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "run started" in line:
                break
        os.killpg(process.pid, sign)  # as a terminal does it
        stdout, stderr = process.communicate(timeout=25)

    assert process.returncode == 128 + sign, stdout + stderr
    assert_no_trace(tmp_path, stderr)
