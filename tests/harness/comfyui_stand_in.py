"""A stand-in for ComfyUI that behaves as the real one where a service of it is judged; standard library only.

Run as ``python main.py --port N [--cpu] [--state FOLDER]`` in a folder with ``custom_nodes`` and ``models``. As measured
on ComfyUI 0.3.64: it runs every node's ``prestartup_script.py``, imports every node in its own process and logs what
came of it, in the same words; then it listens. Prompts are queued in memory and done one after the other: what it had
not done when it ends is lost. ``--state`` is where it writes down, one file a start, which prompts it accepted and did.

What a prompt holds: ``{"seconds": S}``, how long it takes, and ``{"until": PATH}``, the file that it waits for.
"""

from __future__ import annotations

import argparse
import collections
import http.server
import importlib.util
import json
import os
import sys
import threading
import time
import traceback
import types
import uuid
from urllib.parse import unquote

CLASSES = {"KSampler": "nodes", "CheckpointLoaderSimple": "nodes"}
"""What it offers by itself, with the module of each."""
MODELS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
FOLDERS = ("checkpoints", "loras", "vae", "diffusion_models")


LAST: collections.deque[dict[str, str]] = collections.deque(maxlen=300)
"""What it tells of its log itself, under ``/internal/logs/raw``."""


def log(text: str) -> None:
    LAST.append({"t": time.strftime("%Y-%m-%dT%H:%M:%S"), "m": f"{text}\n"})
    print(text, file=sys.stderr, flush=True)


def module_of(name: str, **attributes: object) -> None:
    module = types.ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    sys.modules[name] = module


def run_prestartup_scripts(folder: str) -> None:
    times = []
    for name in sorted(os.listdir(folder)):
        script = os.path.join(folder, name, "prestartup_script.py")
        if not os.path.isfile(script):
            continue
        began = time.perf_counter()
        try:
            spec = importlib.util.spec_from_file_location(script[:-3], script)
            assert spec is not None and spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
            times.append((time.perf_counter() - began, os.path.dirname(script), ""))
        except Exception as error:
            log(f"Failed to execute startup-script: {script} / {error}")
            times.append((time.perf_counter() - began, os.path.dirname(script), " (PRESTARTUP FAILED)"))
    if times:
        log("\nPrestartup times for custom nodes:")
        for seconds, path, failed in sorted(times):
            log(f"{seconds:6.1f} seconds{failed}: {path}")
        log("")


def load_node(path: str) -> bool:
    is_file = os.path.isfile(path)
    name = os.path.splitext(path)[0] if is_file else path.replace(".", "_x_")
    try:
        spec = importlib.util.spec_from_file_location(
            name, path if is_file else os.path.join(path, "__init__.py")
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        found = getattr(module, "NODE_CLASS_MAPPINGS", None)
        if found is not None:
            label = os.path.splitext(os.path.basename(path))[0] if is_file else os.path.basename(path)
            CLASSES.update((each, f"custom_nodes.{label}") for each in found)
            return True
        why = "due to the lack of NODE_CLASS_MAPPINGS or NODES_LIST (need one)."
        log(f"Skip {path} module for custom nodes {why}")
    except Exception as error:
        log(traceback.format_exc())
        log(f"Cannot import {path} module for custom nodes: {error}")
    return False


def load_nodes(folder: str) -> None:
    times = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if (
            name == "__pycache__"
            or (os.path.isfile(path) and not name.endswith(".py"))
            or name.endswith(".disabled")
        ):
            continue
        began = time.perf_counter()
        is_loaded = load_node(path)
        times.append((time.perf_counter() - began, path, "" if is_loaded else " (IMPORT FAILED)"))
    if times:
        log("\nImport times for custom nodes:")
        for seconds, path, failed in sorted(times):
            log(f"{seconds:6.1f} seconds{failed}: {path}")
        log("")


class Prompts:
    """The queue, and the thread that does it."""

    def __init__(self, state: str) -> None:
        self.changed = threading.Condition()
        self.number = 0
        self.running: list[list[object]] = []
        self.pending: list[list[object]] = []
        self.path = os.path.join(state, f"{time.time_ns()}.txt") if state else ""
        threading.Thread(target=self.work, daemon=True).start()

    def write(self, what: str, name: object) -> None:
        if self.path:
            with open(self.path, "a") as file:
                print(what, name, file=file)

    def put(self, order: dict[str, object]) -> dict[str, object]:
        with self.changed:
            number = order.get("number", self.number)
            self.number += 1
            name = str(order.get("prompt_id") or uuid.uuid4())
            extra = dict(order.get("extra_data") or {})  # type: ignore[call-overload]
            self.pending.append([number, name, order["prompt"], extra, ["9"]])
            self.write("accepted", name)
            self.changed.notify()
        return {"prompt_id": name, "number": number, "node_errors": {}}

    def work(self) -> None:
        while True:
            with self.changed:
                while not self.pending:
                    self.changed.wait()
                item = self.pending.pop(0)
                self.running = [item]
            prompt = item[2]
            asked = prompt if isinstance(prompt, dict) else {}
            while "until" in asked and not os.path.exists(asked["until"]):
                time.sleep(0.01)
            time.sleep(float(asked.get("seconds", 0)))
            with self.changed:
                self.running = []
                self.write("done", item[1])
            log("Prompt executed in 0.00 seconds")


class Handler(http.server.BaseHTTPRequestHandler):
    prompts: Prompts
    is_on_cpu = False

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        path = path[len("/api") :] if path.startswith("/api/") else path
        if path == "/system_stats":
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            device = {"name": "cpu", "type": "cpu", "index": None, "vram_total": memory, "vram_free": memory}
            self.answer({"system": {"argv": sys.argv, "comfyui_version": "0.3.64"}, "devices": [device]})
        elif path == "/":
            self.answer("a page")
        elif path == "/queue":
            with self.prompts.changed:
                self.answer({"queue_running": self.prompts.running, "queue_pending": self.prompts.pending})
        elif path == "/object_info":
            self.answer({name: info(name) for name in CLASSES})
        elif path.startswith("/object_info/"):
            name = path[len("/object_info/") :]
            self.answer({name: info(name)} if name in CLASSES else {})
        elif path == "/internal/logs/raw":
            self.answer({"entries": list(LAST), "size": {"cols": 80, "rows": 24}})
        elif path == "/models":
            self.answer(list(FOLDERS))
        elif path.startswith("/models/"):
            found = listed(path[len("/models/") :])
            self.answer(found, 200 if found is not None else 404)
        else:
            self.answer(None, 404)

    def do_POST(self) -> None:
        if self.path == "/prompt":
            log("got prompt")
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(self.prompts.put(order))
        else:
            self.answer(None, 404)

    def answer(self, data: object, status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        return


def info(name: str) -> dict[str, object]:
    return {"name": name, "display_name": name, "python_module": CLASSES[name], "category": "sd", "input": {}}


def listed(folder: str) -> list[str] | None:
    """As the real one: every time from the disk."""
    if folder not in FOLDERS:
        return None
    root = os.path.join("models", folder)
    found = [
        os.path.join(at, name) for at, _, names in os.walk(root) for name in names if name.endswith(MODELS)
    ]
    return sorted(os.path.relpath(path, root) for path in found)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--listen", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=8188)
    arguments.add_argument("--cpu", action="store_true")
    arguments.add_argument("--disable-auto-launch", action="store_true")
    arguments.add_argument("--state", default="")
    chosen = arguments.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, here)
    module_of("folder_paths", models_dir=os.path.join(here, "models"), base_path=here)
    module_of("nodes", NODE_CLASS_MAPPINGS={})
    folder = os.path.join(here, "custom_nodes")
    os.makedirs(folder, exist_ok=True)
    run_prestartup_scripts(folder)
    load_nodes(folder)
    Handler.prompts, Handler.is_on_cpu = Prompts(chosen.state), chosen.cpu
    log("Starting server\n")
    server = http.server.ThreadingHTTPServer((chosen.listen, chosen.port), Handler)
    log(f"To see the GUI go to: http://{chosen.listen}:{chosen.port}")
    server.serve_forever()


if __name__ == "__main__":
    main()
