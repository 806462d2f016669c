"""Services with real processes, real ports and real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.agent_runs import until
from harness.environments import Surroundings
from provision_agent.contract.failures import Failure
from provision_agent.contract.parsing import parse
from provision_agent.contract.plan import Ready, Service
from provision_agent.host.detach import Identity
from provision_agent.services import log, manager, supervisor
from provision_agent.services import wait_ready as service_ready
from provision_agent.services.files import ServiceFiles, read_order
from provision_agent.services.wait_ready import wait_ready

SERVER = """
import http.server, json, os, sys
port, answer = int(sys.argv[1]), json.loads(sys.argv[2])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(answer).encode()
        self.send_response(200 if self.path in ("/stats", "/system_stats") else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
print("listening", os.environ.get("MARK", ""), flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    monkeypatch.setattr(supervisor, "BACKOFF_S", 0.02)
    monkeypatch.setattr(service_ready, "POLL_S", 0.05)
    here = Surroundings(str(tmp_path))
    here.write("server.py", SERVER)
    yield here
    for name in ("ui", "other"):
        manager.stop(name, here.context)


@pytest.fixture
def port() -> int:
    return free_port()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_ticks(pid: int) -> int:
    """What a process has used of the processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def server(port: int, answer: Any = None, *, name: str = "ui", **fields: Any) -> Service:
    ready = Ready(
        url=f"http://127.0.0.1:{port}/stats",
        within_s=fields.pop("within_s", 15.0),
        json=fields.pop("json", {}),
    )
    argv = (sys.executable, "server.py", str(port), json.dumps(answer or {}))
    return Service(name=name, run=argv, ready=ready, **fields)


def start_and_wait(service: Service, here: Surroundings) -> None:
    manager.start(service, here.context, None)
    wait_ready(service, here.context)


def program(code: str, **fields: Any) -> Service:
    return Service(name="ui", run=(sys.executable, "-c", code), **fields)


@contextmanager
def started_by_somebody_else(here: Surroundings, script: str, port: int) -> Iterator[int]:
    """The pid of a server that no run started; it accepts connections."""
    argv = [sys.executable, "-u", script, str(port), json.dumps({"devices": ["one"]})]
    stranger = subprocess.Popen(argv, cwd=here.workspace, stdout=subprocess.DEVNULL)
    try:
        until(lambda: _accepts(port))
        yield stranger.pid
    finally:
        stranger.kill()
        stranger.communicate(timeout=10)


def status_of(here: Surroundings, name: str = "ui") -> dict[str, Any]:
    path = Path(here.workspace, ".provision", "services", f"{name}.status.json")
    return dict(json.loads(path.read_text())) if path.exists() else {}


def log_of(here: Surroundings) -> str:
    return Path(here.workspace, ".provision", "services", "ui.log").read_text()


def test_a_service_is_ready_when_it_answers_as_wanted(here: Surroundings, port: int) -> None:
    service = server(
        port,
        {"devices": [{"vram": 8}], "system": {"os": "linux"}},
        environment={"MARK": "here"},
        json={"devices": "not_empty", "devices.0.vram": 8, "system.os": "linux"},
    )

    start_and_wait(service, here)

    assert here.names() == ["service_started", "service_ready"]
    assert "listening here" in log_of(here)


def test_a_supervisor_is_told_all_that_the_profile_says_of_its_service(here: Surroundings) -> None:
    service = program("import time; time.sleep(60)", restart="on_failure", start="complete", level="optional")

    manager.start(service, here.context, None)

    assert read_order(ServiceFiles("ui", here.context).order_path).service == service


def test_the_service_survives_the_death_of_the_agent_that_started_it(here: Surroundings) -> None:
    code = (
        "import os, signal, sys; sys.path[:0] = sys.argv[1:3]\n"
        "from harness.environments import Surroundings; from provision_agent.services import manager; from provision_agent.contract.plan import Service\n"
        "manager.start(Service(name='ui', run=('sleep', '60')), Surroundings(sys.argv[3]).context, None)\n"
        "os.killpg(0, signal.SIGKILL)\n"
    )
    paths = [str(Path(manager.__file__).parents[2]), str(Path(__file__).parent.parent)]
    agent = subprocess.run(
        [sys.executable, "-c", code, *paths, here.workspace], start_new_session=True, timeout=20, check=False
    )

    assert agent.returncode == -signal.SIGKILL
    status = status_of(here)
    for key in ("supervisor", "child"):
        identity = parse(Identity, status[key])
        assert identity is not None
        assert identity.is_alive()
        assert os.getsid(identity.pid) == identity.pid


def test_the_same_service_is_adopted_and_a_changed_one_replaces_it(here: Surroundings, port: int) -> None:
    first = manager.start(server(port), here.context, None)
    again = manager.start(server(port, within_s=3.0), here.context, None)
    child = parse(Identity, status_of(here)["child"])
    other = manager.start(server(port, {"new": 1}), here.context, None)

    assert (first.is_new, again) == (True, first._replace(is_new=False))
    assert here.of("service_started")[1]["adopted"] is True
    assert other.pid != first.pid
    assert child is not None
    assert not child.is_alive()


def test_a_port_that_a_stranger_holds_is_found_before_the_start_with_its_owner(
    here: Surroundings, port: int
) -> None:
    here.write("portal.py", SERVER)
    with started_by_somebody_else(here, "portal.py", port) as pid, pytest.raises(Failure) as caught:
        manager.start(server(port), here.context, None)

    assert caught.value.class_ == "port_taken"
    assert f"portal.py (pid {pid})" in caught.value.message
    assert status_of(here) == {}


def test_an_answer_from_another_process_is_not_the_service(here: Surroundings, port: int) -> None:
    """It listens somewhere else, and a stranger takes the port after the start."""
    service = Service(
        name="ui", run=("sleep", "60"), ready=Ready(url=f"http://127.0.0.1:{port}/stats", within_s=1.5)
    )
    manager.start(service, here.context, None)
    with started_by_somebody_else(here, "server.py", port), pytest.raises(Failure) as caught:
        wait_ready(service, here.context)

    assert caught.value.class_ == "port_taken"
    assert "not by this service" in caught.value.message


def test_an_answer_with_an_empty_list_is_not_ready(here: Surroundings, port: int) -> None:
    service = server(port, {"devices": []}, json={"devices": "not_empty"}, within_s=2.0)

    with pytest.raises(Failure) as caught:
        start_and_wait(service, here)

    assert caught.value.class_ == "not_ready"
    assert "`devices` is empty" in caught.value.message


def answering(port: int, devices: list[Any], *words: str, path: str = "/system_stats") -> Service:
    """A service that lists *devices* under the address by which a ComfyUI is known."""
    argv = (sys.executable, "server.py", str(port), json.dumps({"devices": devices}), *words)
    url = f"http://127.0.0.1:{port}{path}"
    return Service(
        name="ui", run=argv, ready=Ready(url=url, within_s=2.0, successes=1, json={"devices": "not_empty"})
    )


GPU = {"name": "cuda:0 NVIDIA", "type": "cuda", "index": 0, "vram_total": 25_300_000_000}
BLIND = dict(GPU, vram_total=0)
MEMORY = {"name": "cpu", "type": "cpu", "vram_total": 0}


@pytest.mark.parametrize(
    "devices",
    [[BLIND], [GPU, BLIND], [{"name": "cuda:0"}], [MEMORY], ["cuda:0"], [dict(GPU, vram_total="8 GB")]],
)
def test_a_comfyui_that_sees_no_memory_on_a_gpu_instance_is_not_ready(
    devices: list[Any], here: Surroundings, port: int
) -> None:
    manager.start(answering(port, devices), here.context, None)

    with pytest.raises(Failure) as caught:
        wait_ready(answering(port, devices), here.context, has_gpu=True)

    assert caught.value.class_ == "not_ready"
    assert "sees no GPU, although the instance has one" in caught.value.message
    assert "`--cpu`" in caught.value.message


@pytest.mark.parametrize(
    ("devices", "words", "path", "has_gpu"),
    [
        ([GPU], (), "/system_stats", True),
        ([GPU, MEMORY], (), "/system_stats", True),
        ([BLIND], (), "/system_stats", False),
        ([BLIND], ("--cpu",), "/system_stats", True),
        (["one of a kind of its own"], (), "/stats", True),
    ],
)
def test_devices_need_memory_only_where_a_gpu_is_to_be_used(
    devices: list[Any], words: tuple[str, ...], path: str, has_gpu: bool, here: Surroundings, port: int
) -> None:
    service = answering(port, devices, *words, path=path)
    manager.start(service, here.context, None)

    wait_ready(service, here.context, has_gpu=has_gpu)

    assert here.names()[-1] == "service_ready"


def test_a_longer_option_than_cpu_leaves_the_gpu_in_use(here: Surroundings, port: int) -> None:
    service = answering(port, [BLIND], "--cpu-vae")
    manager.start(service, here.context, None)

    with pytest.raises(Failure, match="sees no GPU"):
        wait_ready(service, here.context, has_gpu=True)


COMFYUI = """
import http.server, json, os, sys
FOUND = os.listdir("models/checkpoints")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        folder = self.path[len("/api/models/"):]
        answer = {"devices": ["one"]} if self.path == "/api/system_stats" else None
        if folder == "checkpoints":
            answer = FOUND
        body = json.dumps(answer).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_comfyui_is_ready_when_it_offers_the_critical_models(here: Surroundings, port: int) -> None:
    here.write("ComfyUI/main.py", COMFYUI)
    here.write("ComfyUI/models/checkpoints/sd.safetensors")
    argv = (sys.executable, "main.py", str(port))
    ready = Ready(url=f"http://127.0.0.1:{port}/api/system_stats", within_s=2.0)
    service = Service(name="ui", run=argv, directory="ComfyUI", ready=ready)
    manager.start(service, here.context, None)
    elsewhere = ["ComfyUI/models/a_kind_of_its_own/x.pt", "ComfyUI/models/checkpoints/list.txt", "data/x.bin"]
    models = [f"ComfyUI/models/checkpoints/{name}.safetensors" for name in ("sd", "flux")]
    for path in elsewhere:
        here.write(path)

    wait_ready(service, here.context, [*models, *elsewhere])
    here.write(models[1])
    with pytest.raises(Failure) as caught:
        wait_ready(service, here.context, models)

    assert caught.value.class_ == "not_ready"
    assert "it does not offer `flux.safetensors` under /api/models/checkpoints" in caught.value.message


def test_a_crash_loop_is_given_up_and_fails_fast_with_the_last_lines(here: Surroundings, port: int) -> None:
    ready = Ready(url=f"http://127.0.0.1:{port}/", within_s=600.0)
    code = "print(*range(30), sep='\\n'); print('no kernel image'); raise SystemExit(3)"
    service = program(code, restart="on_failure", ready=ready)
    manager.start(service, here.context, None)

    with pytest.raises(Failure) as caught:
        wait_ready(service, here.context)

    assert caught.value.class_ == "crashed"
    assert "ended with status 3 5 times" in caught.value.message
    assert caught.value.facts["tail"][-1] == "no kernel image"
    assert len(caught.value.facts["tail"]) == 20
    assert status_of(here)["starts"] == 5


def test_a_service_that_may_not_restart_fails_as_soon_as_it_ends(here: Surroundings, port: int) -> None:
    service = program(
        "raise SystemExit('out of memory')", ready=Ready(url=f"http://127.0.0.1:{port}/", within_s=600.0)
    )

    with pytest.raises(Failure) as caught:
        start_and_wait(service, here)

    assert caught.value.class_ == "crashed"
    assert "out of memory" in caught.value.message
    assert status_of(here)["starts"] == 1


def test_a_killed_service_is_started_again_by_its_supervisor_alone(here: Surroundings) -> None:
    manager.start(Service(name="ui", run=("sleep", "60"), restart="on_failure"), here.context, None)
    first = status_of(here)["child"]["pid"]

    os.kill(first, signal.SIGKILL)

    until(lambda: status_of(here)["starts"] == 2 and status_of(here)["state"] == "running")
    assert status_of(here)["child"]["pid"] != first


def test_a_program_that_is_not_there_fails_at_once(here: Surroundings) -> None:
    with pytest.raises(Failure) as caught:
        manager.start(Service(name="ui", run=("no-such-program",)), here.context, None)

    assert caught.value.class_ == "crashed"
    assert "no-such-program" in caught.value.message


def test_a_missing_working_directory_is_named(here: Surroundings) -> None:
    with pytest.raises(Failure) as caught:
        manager.start(Service(name="ui", run=("sleep", "1"), directory="ComfyUI"), here.context, None)

    assert caught.value.class_ == "missing"
    assert "`ComfyUI`" in caught.value.message


def test_stopping_leaves_nothing_of_it_not_even_children_that_ignore_term(here: Surroundings) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('child', child.pid, flush=True)\ntime.sleep(60)\n"
    )
    manager.start(program(code, restart="on_failure"), here.context, None)
    until(lambda: log_of(here).endswith("\n"))
    grandchild = int(log_of(here).split()[1])
    identity = Identity.of(grandchild)

    manager.stop("ui", here.context)

    assert identity.wait(within_s=5.0)
    assert status_of(here)["state"] == "stopped"


def test_a_service_that_an_image_started_is_adopted_on_the_port_that_the_image_chose(
    here: Surroundings, port: int
) -> None:
    """Behind a portal that holds the usual port, as rental images have it."""
    here.write("portal.py", SERVER)
    service = server(port, json={"devices": "not_empty"})
    behind = free_port()
    portal = started_by_somebody_else(here, "portal.py", port)
    with portal, started_by_somebody_else(here, "server.py", behind) as pid:
        for _ in range(2):
            start_and_wait(service, here)
        manager.stop("ui", here.context)
        assert _accepts(behind)

    assert [fields["pid"] for fields in here.of("service_started")] == [pid, pid]
    assert all(fields["adopted"] for fields in here.of("service_started"))
    assert {fields["url"] for fields in here.of("service_ready")} == {f"http://127.0.0.1:{behind}/stats"}
    assert [f"server.py (pid {pid})" in fields["message"] for fields in here.of("warning")] == [True]


def test_an_adopted_service_that_has_ended_is_started_by_the_next_run(here: Surroundings, port: int) -> None:
    service = server(port)
    with started_by_somebody_else(here, "server.py", port):
        manager.start(service, here.context, None)
    with pytest.raises(Failure) as caught:
        wait_ready(service, here.context)

    start_and_wait(service, here)

    assert "has ended" in caught.value.message
    assert here.of("service_started")[-1]["adopted"] is False
    assert here.names()[-1] == "service_ready"


def test_two_services_of_one_program_do_not_adopt_each_other(here: Surroundings, port: int) -> None:
    first, second = server(port), server(free_port(), name="other")
    for service in (first, second):
        start_and_wait(service, here)

    assert [fields["adopted"] for fields in here.of("service_started")] == [False, False]


def test_an_editor_with_the_services_file_open_is_not_the_service(here: Surroundings, port: int) -> None:
    argv = ["tail", "-f", "server.py"]
    editor = subprocess.Popen(argv, cwd=here.workspace, stdout=subprocess.DEVNULL)
    try:
        manager.start(server(port), here.context, None)
    finally:
        editor.kill()
        editor.communicate(timeout=10)

    assert here.of("service_started")[0]["adopted"] is False


def test_a_talkative_service_keeps_a_small_log_whose_end_is_whole(
    here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_BYTES", 10_000)
    code = "for n in range(20_000): print(f'line {n}')\nraise SystemExit(3)"
    service = program(code, ready=Ready(url="http://127.0.0.1:1/", within_s=600.0))
    with pytest.raises(Failure) as caught:
        start_and_wait(service, here)

    folder = Path(here.workspace, ".provision", "services")
    sizes = {path.name: path.stat().st_size for path in folder.glob("ui.log*")}
    kept = "".join((folder / name).read_text() for name in ("ui.log.1", "ui.log")).splitlines()
    assert caught.value.facts["tail"] == [f"line {n}" for n in range(19_980, 20_000)]
    assert kept == [f"line {n}" for n in range(20_000 - len(kept), 20_000)]
    assert set(sizes) == {"ui.log", "ui.log.1"}
    assert max(sizes.values()) <= 10_000 < sum(sizes.values())


def test_the_log_of_a_new_start_begins_anew_and_the_one_before_is_kept(here: Surroundings) -> None:
    for word in ("first", "second"):
        manager.start(
            program(f"print('{word}', flush=True); import time; time.sleep(60)"), here.context, None
        )
        until(lambda word=word: log_of(here) == f"{word}\n")
    previous = Path(here.workspace, ".provision", "services", "ui.log.previous")

    assert previous.read_text() == "first\n"


def test_the_last_words_of_a_stopped_service_are_kept(here: Surroundings) -> None:
    """More of them than a pipe holds: a service that is told to stop is listened to until its end."""
    code = (
        "import signal, sys, time\n"
        "def bye(*_):\n    print('x' * 200_000); print('saved', flush=True); sys.exit()\n"
        "signal.signal(signal.SIGTERM, bye); print('up', flush=True)\nwhile True: time.sleep(1)\n"
    )
    manager.start(program(code), here.context, None)
    until(lambda: "up" in log_of(here))

    manager.stop("ui", here.context)

    assert log_of(here).endswith("x\nsaved\n")
    assert status_of(here)["state"] == "stopped"


def test_what_a_service_leaves_behind_is_ended_and_its_last_words_are_kept(here: Surroundings) -> None:
    code = (
        "import os, signal, sys, time\n"
        "def bye(*_):\n    os.write(1, b'left behind\\n'); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\n"
        "ready, go = os.pipe()\n"
        "if os.fork():\n    os.read(ready, 1); os.write(1, b'main\\n'); os._exit(3)\n"
        "os.write(go, b'x')\n"
        "while True: time.sleep(1)\n"
    )
    manager.start(program(code), here.context, None)

    until(lambda: status_of(here)["state"] == "exited")

    assert log_of(here) == "main\nleft behind\n"


def test_a_service_that_closes_its_output_is_not_taken_for_ended(here: Surroundings) -> None:
    manager.start(program("import os, time; os.close(1); os.close(2); time.sleep(60)"), here.context, None)
    child = parse(Identity, status_of(here)["child"])
    watcher = parse(Identity, status_of(here)["supervisor"])

    assert child is not None
    assert watcher is not None
    before = cpu_ticks(watcher.pid)
    assert not watcher.wait(within_s=1.0)
    assert child.is_alive()
    assert cpu_ticks(watcher.pid) - before < 5, "it sleeps, it does not look again and again"


def test_a_run_that_ends_does_not_wait_for_the_service(here: Surroundings, port: int) -> None:
    service = Service(
        name="ui", run=("sleep", "60"), ready=Ready(url=f"http://127.0.0.1:{port}/", within_s=600.0)
    )
    manager.start(service, here.context, None)
    here.context.cancelled.set()

    with pytest.raises(Failure) as caught:
        wait_ready(service, here.context)

    assert caught.value.retriable


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
