"""How soon does a ComfyUI with ten nodes answer, and how soon is all of it there? Next to the same steps one after the other.

Repositories, wheels and models come from this machine (`comfyui_world.py`); torch is the CPU's. Each way starts from an
empty folder and an empty cache of packages, and is then run once more with its service running. The ways take turns.
Timed are: the service answers and offers classes of every node (asked five times a second), the command has ended, and
the second command.

    python benchmarks/comfyui.py --repositories DIR --wheels DIR            one round
    python benchmarks/comfyui.py … --rounds 3 --provisioner DIR/lib         medians, and Vast's provisioner, too
    python benchmarks/comfyui.py … --only ours --started-again --volume DIR     and on a new machine with the same volume

What it needs is no part of this project: DIR/OWNER+NAME/repo, a bare clone for each of `comfyui_world.NODES` and of
ComfyUI; the wheels that those need, for the Python that runs this; the folder ``lib`` of Vast's base image, with its
module ``provisioner``; uv on PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from comfyui_world import COMFYUI, NODES, ROOT, World, world

PYTHON = os.path.realpath(sys.executable)
WITHIN_S = 900.0
FIRST = "numpy<2"
"""One of the nodes wants that: all three ways install it first."""
MODELS_MIB = [512, 512, 256, 64]


@dataclass(frozen=True)
class Took:
    """One way in one round, in seconds."""

    ready_s: float
    all_s: float
    again_s: float
    started_again_s: float | None = None
    """On a new machine with the volume of the old one, where that was asked for."""


@dataclass
class Way:
    """How a ComfyUI is set up in a folder: a command, which is run twice."""

    name: str
    command: Callable[[World, Path, int], list[str]]
    environment: Callable[[World, Path], dict[str, str]]
    clean: list[Callable[[], None]] = field(default_factory=list)
    start_again: Callable[[Path], None] | None = None
    """The container's disk is wiped, and another machine takes the volume."""


def environment(served: World, folder: Path) -> dict[str, str]:
    """What every way is told: the index, and a cache of its own."""
    return {
        **os.environ,
        "PIP_INDEX_URL": served.index,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_CERT": "",
        "UV_INDEX_URL": served.index,
        "UV_CACHE_DIR": str(folder / "uv-cache"),
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
    }


def serve_words(folder: Path, port: int) -> list[str]:
    return ["main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]


def script(served: World, folder: Path, port: int) -> list[str]:
    """One step after the other, as it is written down in many places."""
    python = folder / "venv" / "bin" / "python"
    install = f"uv pip install -q --python {python}"
    lines = [
        "set -e",
        f"cd {folder}",
        f"[ -e venv ] || uv venv -q --python {PYTHON} venv",
        f"[ -e ComfyUI ] || git clone -q --depth 1 {served.git}/{COMFYUI.name} ComfyUI",
    ]
    lines += [
        f"[ -e {node.folder} ] || git clone -q --depth 1 {served.git}/{node.name} {node.folder}"
        for node in NODES
    ]
    lines += [
        f"{install} '{FIRST}' torch=={served.torch} torchvision torchaudio",
        f"{install} -r ComfyUI/requirements.txt",
    ]
    lines += [f"{install} -r {node.folder}/{node.requirements}" for node in NODES if node.requirements]
    for name in served.hashes:
        path = f"ComfyUI/models/checkpoints/{name}"
        lines.append(f"[ -e {path} ] || curl -sfL -o {path} {served.models}/{name}")
    asks = f"curl -sf -o /dev/null http://127.0.0.1:{port}/system_stats"
    start = (
        f"setsid nohup {python} {shlex.join(serve_words(folder, port))} > comfyui.log 2>&1 & echo $! > ../pid"
    )
    lines += [f"{asks} || (cd ComfyUI; {start})", f"until {asks}; do sleep 0.2; done"]
    return ["bash", "-c", "\n".join(lines)]


def manifest(served: World, folder: Path, port: int) -> dict[str, object]:
    """The same for Vast's provisioner, as its own example has it."""
    python = folder / "venv" / "bin" / "python"
    install = f"uv pip install --no-cache --python {python}"
    repos: list[dict[str, object]] = [
        {"url": f"{served.git}/{COMFYUI.name}", "dest": f"{folder}/ComfyUI", "ref": "master"}
    ]
    repos += [
        {"url": f"{served.git}/{node.name}", "dest": f"{folder}/{node.folder}"}
        | ({"post_commands": [f"{install} -r {node.requirements}"]} if node.requirements else {})
        for node in NODES
    ]
    repos[0]["post_commands"] = [f"{install} -r requirements.txt"]
    asks = f"curl -sf -o /dev/null http://127.0.0.1:{port}/system_stats"
    words = shlex.join(serve_words(folder, port))
    start = f"setsid nohup {python} {words} > comfyui.log 2>&1 < /dev/null & echo $! > ../pid"
    return {
        "version": 1,
        "settings": {"venv": str(folder / "venv"), "log_file": str(folder / "log" / "provisioning.log")},
        "pip_packages": [
            {"tool": "uv", "packages": [FIRST, f"torch=={served.torch}", "torchaudio", "torchvision"]}
        ],
        "git_repos": repos,
        "downloads": [
            {"url": f"{served.models}/{name}", "dest": f"{folder}/ComfyUI/models/checkpoints/{name}"}
            for name in served.hashes
        ],
        "post_commands": [
            f"{asks} || (cd {folder}/ComfyUI; {start})",
            f"until {asks}; do sleep 0.2; done",
        ],
        "on_failure": {"max_retries": 0},
    }


def profile(served: World, folder: Path, port: int) -> str:
    """The same as a profile of ours."""
    repos = [{"url": f"{served.git}/{COMFYUI.name}", "path": "ComfyUI", "install": COMFYUI.requirements}]
    repos += [
        {"url": f"{served.git}/{node.name}", "path": node.folder}
        | ({"install": node.requirements} if node.requirements else {})
        for node in NODES
    ]
    models = [
        {"url": f"{served.models}/{name}", "path": f"ComfyUI/models/checkpoints/{name}", "sha256": sha256}
        for name, sha256 in served.hashes.items()
    ]
    service = {
        "name": "comfyui",
        "run": ["python", *serve_words(folder, port)],
        "directory": "ComfyUI",
        "ready": {"url": f"http://127.0.0.1:{port}/system_stats", "within": "5m"},
        "level": "critical",
    }
    # JSON is YAML, too
    return json.dumps(
        {
            "version": 1,
            "name": "comfyui-benchmark",
            "python": {
                "layers": [
                    [FIRST],
                    {"torch": {"version": [served.torch], "accelerator": "cpu", "with": ["torchvision"]}},
                    ["torchaudio"],
                ],
                "protect": ["torch", "numpy"],
                "venv": "~/venv",
                "wheels": "wheels",
            },
            "repos": [{**repo, "level": "critical"} for repo in repos],
            "downloads": models,
            "services": [service],
        }
    )


def of_script() -> Way:
    return Way("one after the other", script, environment)


def of_provisioner(library: Path) -> Way:
    """Vast's, with what it needs itself in an environment made beforehand, as its image has it."""
    tools = Path(tempfile.mkdtemp(prefix="comfyui-provisioner-"))
    subprocess.run(["uv", "venv", "-q", "--python", PYTHON, str(tools)], check=True)
    python = str(tools / "bin" / "python")
    needs = str(library / "provisioner" / "requirements.txt")
    subprocess.run(["uv", "pip", "install", "-q", "--python", python, "-r", needs], check=True)

    def command(served: World, folder: Path, port: int) -> list[str]:
        path = folder / "manifest.yaml"
        path.write_text(json.dumps(manifest(served, folder, port)))
        (folder / "log").mkdir(exist_ok=True)
        if not (folder / "venv").exists():
            subprocess.run(["uv", "venv", "-q", "--python", PYTHON, str(folder / "venv")], check=True)
        return [python, "-m", "provisioner", str(path)]

    def told(served: World, folder: Path) -> dict[str, str]:
        return {
            **environment(served, folder),
            "PYTHONPATH": str(library),
            "PROVISIONER_STATE_DIR": str(folder / "provisioner-state"),
            "PATH": f"{tools / 'bin'}:{os.environ['PATH']}",
        }

    return Way("Vast provisioner", command, told, [lambda: shutil.rmtree(tools, ignore_errors=True)])


def of_us(volumes: Path | None = None) -> Way:
    """`provision up` to an sshd of this machine: the environment on its disk, the workspace on a volume.

    Args:
        volumes: Where the volume is; else it is a folder like any other.
    """
    from provision_collector.demo.instance import EmbeddedInstance

    instances: dict[Path, EmbeddedInstance] = {}

    def command(served: World, folder: Path, port: int) -> list[str]:
        if folder not in instances:
            told = environment(served, folder)
            names = [name for name in told if name.startswith(("PIP_", "UV_")) and name != "UV_CACHE_DIR"]
            instances[folder] = EmbeddedInstance(
                folder / "instance", environment={name: told[name] for name in [*names, "PATH"]}
            )
            instances[folder].start()
        instance = instances[folder]
        workspace = (volumes or folder) / folder.name / "workspace"
        workspace.mkdir(parents=True, exist_ok=True)
        path = folder / "profile.yaml"
        path.write_text(profile(served, folder, port))
        at = ["--host", f"{instance.user}@{instance.host}:{instance.port}", "--key", str(instance.key_path)]
        program = str(Path(sys.executable).with_name("provision"))
        at += ["--workspace", str(workspace), "--boot-grace", "10s"]
        return [program, "up", "--profile", str(path), *at, "--json"]

    def end() -> None:
        for folder in list(instances):
            instances.pop(folder).switch_off()
            if volumes is not None:
                shutil.rmtree(volumes / folder.name, ignore_errors=True)

    def start_again(folder: Path) -> None:
        instances.pop(folder).switch_off()
        shutil.rmtree(folder / "instance")

    return Way("provision", command, environment, [end], start_again)


def has_every_node(port: int) -> bool:
    """Does a service answer there that offers a class of every node?"""
    return all(
        offers(port, each.a_class) for each in (COMFYUI, *NODES) if each.a_class is not None
    )  # the manager has none


def offers(port: int, name: str) -> bool:
    address = f"http://127.0.0.1:{port}/object_info/{urllib.parse.quote(name, safe='')}"
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            return name in json.load(answer)
    except (OSError, ValueError):
        return False


def run(way: Way, served: World, folder: Path, *, starts_again: bool = False) -> Took:
    """Do it once, and once more; then, where *starts_again* says so, on another machine with the same volume."""
    port = free_port()
    words, told = way.command(served, folder, port), way.environment(served, folder)
    began, is_over = time.monotonic(), threading.Event()
    ready: list[float] = []

    def watch() -> None:
        while not is_over.is_set() and not ready:
            if has_every_node(port):
                ready.append(time.monotonic() - began)
            is_over.wait(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done(words, told, folder / "first.log")
        all_s = time.monotonic() - began
        watcher.join(60)
        if not ready:
            raise SystemExit(f"{way.name}: no service with every node; see {folder}")
        began_again = time.monotonic()
        done(way.command(served, folder, port), told, folder / "again.log")
        took = Took(ready[0], max(all_s, ready[0]), time.monotonic() - began_again)
        if not starts_again or way.start_again is None:
            return took
        way.start_again(folder)
        words, began = way.command(served, folder, port), time.monotonic()
        done(words, told, folder / "started_again.log")
        return replace(took, started_again_s=time.monotonic() - began)
    finally:
        is_over.set()
        pid = folder / "pid"
        if pid.exists():
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def done(words: list[str], told: dict[str, str], log: Path) -> None:
    with log.open("wb") as out:
        status = subprocess.run(
            words, env=told, stdout=out, stderr=subprocess.STDOUT, timeout=WITHIN_S, check=False
        )
    if status.returncode:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        raise SystemExit(f"`{words[0]}` ended with {status.returncode}; {log}:\n" + "\n".join(lines))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def table(results: dict[str, list[Took]]) -> str:
    lines = [
        "| | service with every node, s | all, s | again, s | × ready | × all |",
        "|---|" + "---:|" * 5,
    ]
    ours = results.get("provision", [])
    for name, took in results.items():
        numbers = [statistics.median(getattr(each, what) for each in took) for what in ("ready_s", "all_s")]
        again = statistics.median(each.again_s for each in took)
        ratios = [
            statistics.median(
                getattr(mine, what) / getattr(each, what) for mine, each in zip(ours, took, strict=False)
            )
            for what in ("ready_s", "all_s")
            if ours
        ]
        cells = [*(f"{each:.1f}" for each in numbers), f"{again:.2f}", *(f"{each:.2f}" for each in ratios)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for mine in ours:
        if mine.started_again_s is not None:
            ratio = mine.started_again_s / mine.all_s
            lines.append(f"\nStarted again: {mine.started_again_s:.1f} s, {ratio:.2f} of the first run.")
    return "\n".join(lines)


def main() -> None:
    """Let the ways take turns, and print the medians; × is ours by theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repositories", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--provisioner", type=Path, help="the folder `lib` of Vast's base image")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--models-mib", type=int, nargs="+", default=MODELS_MIB)
    parser.add_argument("--only", choices=["ours", "script", "vast"], action="append", default=[])
    parser.add_argument(
        "--started-again",
        action="store_true",
        help="ours on a new machine with the volume of the old one, too",
    )
    parser.add_argument("--volume", type=Path, help="a folder on the volume (`slow_folder.py` makes one)")
    parser.add_argument("--keep", action="store_true", help="leave the last round's folders")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    wanted = options.only or ["ours", "script", *(["vast"] if options.provisioner else [])]
    ways = [
        *([of_us(options.volume)] if "ours" in wanted else []),
        *([of_script()] if "script" in wanted else []),
        *([of_provisioner(options.provisioner)] if "vast" in wanted and options.provisioner else []),
    ]
    results: dict[str, list[Took]] = {way.name: [] for way in ways}
    work = Path(tempfile.mkdtemp(prefix="comfyui-benchmark-"))
    try:
        with world(options.repositories, options.wheels, options.models_mib) as served:
            for turn in range(options.rounds):
                for number in range(len(ways)):
                    way = ways[(turn + number) % len(ways)]
                    folder = work / f"{turn}-{way.name.replace(' ', '-')}"
                    folder.mkdir()
                    took = run(way, served, folder, starts_again=options.started_again)
                    results[way.name].append(took)
                    print(f"round {turn + 1}, {way.name}: {took}", file=sys.stderr, flush=True)
                    for clean in way.clean if way.name == "provision" else []:
                        clean()
                    if not options.keep:
                        shutil.rmtree(folder, ignore_errors=True)
        print(table(results))
    finally:
        for way in ways:
            for clean in way.clean:
                clean()
        if options.keep:
            print(f"kept: {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
