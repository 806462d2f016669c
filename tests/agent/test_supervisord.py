"""Services below a real supervisord, as rental images have one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import comfyui_stand_in
from harness.agent_runs import until
from harness.environments import Surroundings
from provision_agent.contract.parsing import parse
from provision_agent.contract.plan import Ready, Repo, Service
from provision_agent.host.detach import Identity
from provision_agent.services import adoption, changes, judge, manager, restarting, supervisord
from provision_agent.services.wait_ready import wait_ready

CONFIG = """
[supervisord]
logfile=%(here)s/supervisord.log
pidfile=%(here)s/supervisord.pid
nodaemon=true
[unix_http_server]
file={folder}/s.sock ; the socket
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/s.sock
[program:portal]
command=sleep 600
stdout_logfile=NONE
stderr_logfile=NONE
startsecs=0
[include]
files = nowhere/*.conf conf.d/*.conf
"""


class Image:
    """A folder as an image has it: bin/supervisorctl, etc/supervisord.conf, and the daemon that reads it."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        self._program = program
        (folder / "bin").mkdir()
        (folder / "etc" / "conf.d").mkdir(parents=True)
        (folder / "etc" / "supervisord.conf").write_text(CONFIG.format(folder=folder))
        os.symlink(str(Path(program).with_name("supervisorctl")), str(folder / "bin" / "supervisorctl"))
        self._daemon = self._start()

    def restart(self) -> None:
        """As a container is started again: nothing of before lives."""
        self.stop()
        self._daemon = self._start()

    def stop(self) -> None:
        self._daemon.terminate()
        self._daemon.wait(timeout=15)

    def asked(self, *words: str) -> str:
        argv = [
            str(self.folder / "bin" / "supervisorctl"),
            "-c",
            str(self.folder / "etc" / "supervisord.conf"),
        ]
        return subprocess.run(
            [*argv, *words], stdout=subprocess.PIPE, timeout=15, check=False
        ).stdout.decode()

    def _start(self) -> subprocess.Popen[bytes]:
        argv = [self._program, "-c", str(self.folder / "etc" / "supervisord.conf")]
        daemon = subprocess.Popen(argv, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: "RUNNING" in self.asked("status", "portal"))
        return daemon


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> Iterator[Image]:
    places = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    program = shutil.which("supervisord", path=places)
    if program is None:
        pytest.skip("there is no supervisord here")
    folder = Path(tempfile.mkdtemp(prefix="sv-"))  # the path of a socket must be short
    image = Image(folder, program)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    yield image
    image.stop()
    shutil.rmtree(folder)


@pytest.fixture
def here(lasting_path: Path, image: Image) -> Iterator[Surroundings]:
    here = Surroundings(str(lasting_path / "100% and more"))  # supervisord expands and splits such things
    yield here
    manager.stop("ui", here.context)


def status_of(here: Surroundings) -> dict[str, Any]:
    return dict(json.loads(Path(here.workspace, ".provision", "services", "ui.status.json").read_text()))


def child_of(here: Surroundings) -> Identity:
    identity = parse(Identity, status_of(here)["child"])
    assert identity is not None
    return identity


UI = Service(name="ui", run=("sleep", "600"), restart="on_failure")


def test_supervisord_keeps_the_service_and_brings_it_back_with_the_container(
    here: Surroundings, image: Image
) -> None:
    started = manager.start(UI, here.context, None)
    first = child_of(here)
    assert f"pid {started.pid}" in image.asked("status")

    image.restart()
    until(lambda: child_of(here) != first and child_of(here).is_alive())
    again = manager.start(UI, here.context, None)

    assert again.pid != started.pid
    assert [fields["adopted"] for fields in here.of("service_started")] == [False, True]
    assert here.of("warning") == []


def test_a_supervisor_of_ours_that_was_killed_is_brought_back(here: Surroundings) -> None:
    started = manager.start(UI, here.context, None)

    os.kill(started.pid, signal.SIGKILL)

    until(
        lambda: status_of(here)["supervisor"]["pid"] != started.pid and status_of(here)["state"] == "running"
    )


def test_a_replaced_or_stopped_service_is_forgotten_and_the_images_own_programs_run_on(
    here: Surroundings, image: Image
) -> None:
    portal = image.asked("pid", "portal")
    manager.start(UI, here.context, None)
    first = child_of(here)
    manager.start(Service(name="ui", run=("sleep", "601")), here.context, None)
    second = child_of(here)
    assert (first.is_alive(), second.is_alive()) == (False, True)

    manager.stop("ui", here.context)

    assert not second.is_alive()
    assert list((image.folder / "etc" / "conf.d").iterdir()) == []
    assert "provision" not in image.asked("status")
    assert image.asked("pid", "portal") == portal


def test_a_service_of_a_temporary_folder_is_none_of_its_business(tmp_path: Path, image: Image) -> None:
    here = Surroundings(str(tmp_path))
    manager.start(UI, here.context, None)

    assert child_of(here).is_alive()
    assert "provision" not in image.asked("status")
    manager.stop("ui", here.context)


def test_one_that_does_not_answer_or_reads_no_more_programs_is_none(here: Surroundings, image: Image) -> None:
    programs = image.folder / "etc" / "conf.d"
    assert supervisord.find() is not None
    programs.rename(f"{programs}.aside")
    assert supervisord.find() is None
    Path(f"{programs}.aside").rename(programs)
    image.stop()

    assert supervisord.find() is None
    manager.start(UI, here.context, None)
    assert child_of(here).is_alive()


def test_a_comfyui_that_the_image_started_is_judged_and_started_anew_by_the_image(
    here: Surroundings, image: Image
) -> None:
    """Its log is not ours: it tells the end of it itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here.write("ComfyUI/main.py", Path(comfyui_stand_in.__file__).read_text())
    here.write("ComfyUI/custom_nodes/faces/__init__.py", "import helper_of_faces\nNODE_CLASS_MAPPINGS = {}\n")
    argv = (sys.executable, "main.py", "--port", str(port))
    wrapper = here.write("start.sh", f"cd '{here.workspace}/ComfyUI' && {' '.join(argv)}; exit 1")
    unit = f'[program:image-ui]\ncommand=bash "{wrapper.replace("%", "%%")}"\nstartsecs=0\nstopasgroup=true\n'
    (image.folder / "etc/conf.d/image-ui.conf").write_text(unit)
    image.asked("update")
    ready = Ready(f"http://127.0.0.1:{port}/system_stats", within_s=60.0, successes=1)
    service = Service(name="ui", run=argv, directory="ComfyUI", ready=ready)
    until(lambda: adoption.find(argv, os.path.join(here.workspace, "ComfyUI"), port))
    repo = Repo(url="", path="ComfyUI/custom_nodes/faces")

    manager.start(service, here.context, None)
    wait_ready(service, here.context)
    before = judge.failed_nodes(service, [repo], here.context)[repo.path]
    made = changes.Changes(here.workspace, here.context.report)
    here.write("ComfyUI/helper_of_faces.py", "")
    made.report("repo_finished", item=repo.path)
    unloaded = [each.item for each in restarting.unloaded(service, here.context, made)]
    is_done = restarting.restart_by_its_own(service, here.context, None, "a test")
    wait_ready(service, here.context)

    assert before is not None and "No module named 'helper_of_faces'" in before.message
    assert unloaded == [repo.path]
    assert is_done
    assert here.of("service_restarted")[0]["reason"] == "a test (`supervisorctl restart image-ui`)"
    assert judge.failed_nodes(service, [repo], here.context) == {repo.path: None}
    assert restarting.unloaded(service, here.context, made) == []


def test_what_nobody_knows_to_start_again_is_left_as_it_is(here: Surroundings, image: Image) -> None:
    path = here.write("main.py", "import time; time.sleep(60)")
    stranger = subprocess.Popen([sys.executable, path])
    try:
        service = Service(name="ui", run=(sys.executable, "main.py"))
        until(lambda: adoption.find(service.run, here.workspace, None))
        manager.start(service, here.context, None)

        assert not restarting.restart_by_its_own(service, here.context, None, "a test")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(timeout=10)
