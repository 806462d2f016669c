"""How long the commands take that ask no other machine: the table of docs/BENCHMARKS.md.

    python benchmarks/commands.py [--rounds 9] [--only WORD]

Each command is started as a user starts it, as a process of its own, from a folder with a profile and its lock; the runs
that `status`, `explain`, `logs` and others read were made by `provision up` on an embedded instance, which is off by then.
The commands take turns, round by round, so that a busy moment of the machine falls on all of them.
The exit status is 1 where a median is over its limit: 0.1 s for `--help`, 0.4 s for every other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from provision_collector.demo.file_server import FileHost, Model
from provision_collector.demo.instance import EmbeddedInstance

PROVISION = str(Path(sys.executable).with_name("provision"))
RUNS = 6
HELP_LIMIT_S = 0.1
LIMIT_S = 0.4
SCRIPT = """#!/bin/bash
CHECKPOINT_MODELS=("https://huggingface.co/stabilityai/sdxl-vae/resolve/main/sdxl_vae.safetensors")
git clone https://github.com/ltdrdata/ComfyUI-Impact-Pack /workspace/ComfyUI/custom_nodes/ComfyUI-Impact-Pack
wget -O /workspace/ComfyUI/models/loras/a.safetensors https://huggingface.co/a/b/resolve/main/a.safetensors
pip install opencv-python-headless
"""
WORKFLOW = """{"3": {"class_type": "KSampler", "inputs": {}},
 "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}}}"""
PROFILE = """version: 1
name: mine
files: [{path: a.txt, content: "a"}]
downloads: [{url: "SERVER/model.safetensors", path: models/, sha256: SHA, level: critical}]
checks: [{name: Model, glob: ["models/*.safetensors"], level: critical}]
"""


class Command(NamedTuple):
    """What is typed after `provision`, and how long it may take at most."""

    words: str
    limit_s: float = LIMIT_S
    exit_codes: tuple[int, ...] = (0,)


COMMANDS = (
    Command("--help", HELP_LIMIT_S),
    Command("-V"),
    Command("help up"),
    Command("up --help"),
    Command("satus", exit_codes=(2,)),
    Command("completion bash"),
    Command("(a tab in the shell: runs)"),
    Command("check ./mine.yaml"),
    Command("check comfyui"),
    Command("plan comfyui --offline"),
    Command("plan ./mine.yaml --offline --rate 800Mbit --price 0.45"),
    Command("check ./mine.yaml --json"),
    Command("bundle comfyui -o boot.py"),
    Command("profiles list"),
    Command("profiles list --json"),
    Command("profiles show comfyui"),
    Command("profiles show comfyui --resolved"),
    Command("profiles schema"),
    Command("profiles schema --events"),
    Command("profiles import provisioning.sh --offline -o imported.yaml"),
    Command("profiles from-workflow workflow.json --offline -o made.yaml"),
    Command("status"),
    Command("status run-0"),
    Command("status --json"),
    Command("logs run-0"),
    Command("logs run-0 -n 5"),
    Command("explain run-0"),
    Command("explain run-0 models/model.safetensors"),
    Command("explain run-0 --html run.html"),
    Command("hosts list"),
    Command("hosts scores"),
    Command("prune --keep 3 --dry-run"),
)


def main() -> None:
    """Measure, print the table, and say by the exit status whether a limit was passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="times each command is started (9)")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="commands that have it")
    arguments = parser.parse_args()
    chosen = [each for each in COMMANDS if not arguments.only or any(w in each.words for w in arguments.only)]
    with tempfile.TemporaryDirectory(prefix="commands") as name:
        folder = Path(name)
        environment = {
            "PATH": os.environ["PATH"], "HOME": name, "XDG_STATE_HOME": f"{name}/state", "LANG": "C.UTF-8", "NO_COLOR": "1",
        }  # fmt: skip
        _prepare(folder, environment)
        before = os.getloadavg()[0]
        times: dict[str, list[float]] = {each.words: [] for each in chosen}
        for _ in range(arguments.rounds + 1):  # the first of each fills the caches
            for each in chosen:
                times[each.words].append(_took_s(each, folder, environment))
    print(f"{arguments.rounds} rounds, load {before:.1f} before, {os.getloadavg()[0]:.1f} after\n")
    print("| `provision …` | median ms | worst ms | limit ms |\n|---|---:|---:|---:|")
    late = 0
    for each in chosen:
        took = times[each.words][1:]
        middle = statistics.median(took)
        late += middle > each.limit_s
        shown = f"**{middle * 1000:.0f}**" if middle > each.limit_s else f"{middle * 1000:.0f}"
        words = each.words if each.words.startswith("(") else f"`{each.words}`"
        print(f"| {words} | {shown} | {max(took) * 1000:.0f} | {each.limit_s * 1000:.0f} |")
    sys.exit(1 if late else 0)


def _took_s(command: Command, folder: Path, environment: dict[str, str]) -> float:
    """How long one start of *command* took, in seconds; whatever does not end as it should ends this program."""
    words = [PROVISION, *command.words.split()]
    if command.words.startswith("("):
        words = [PROVISION]
        environment = {
            **environment, "_PROVISION_COMPLETE": "bash_complete", "COMP_WORDS": "provision explain ", "COMP_CWORD": "2",
        }  # fmt: skip
    begun = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    took_s = time.perf_counter() - begun
    if done.returncode not in command.exit_codes:
        sys.exit(f"`{command.words}` ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    return took_s


def _prepare(folder: Path, environment: dict[str, str]) -> None:
    """A folder with a profile, its lock, a script, a workflow, and runs that have ended."""
    (folder / "provisioning.sh").write_text(SCRIPT)
    (folder / "workflow.json").write_text(WORKFLOW)
    model = Model(4 << 20, seed=1)
    with FileHost({"/model.safetensors": model}) as files, EmbeddedInstance(folder / "instance") as there:
        digest = hashlib.sha256(b"".join(model.read(0, model.size_bytes))).hexdigest()
        text = PROFILE.replace("SERVER", files.url("")).replace("SHA", digest)
        (folder / "mine.yaml").write_text(text)
        host = f"{there.user}@{there.host}:{there.port}"
        for words in (
            "lock ./mine.yaml",
            *(
                f"up --host {host} --key {there.key_path} --workspace {there.workspace} --profile ./mine.yaml --run-id run-{n}"
                for n in range(RUNS)
            ),
        ):
            done = subprocess.run(
                [PROVISION, *words.split()], cwd=folder, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(
                    f"`{words}` ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
                )


if __name__ == "__main__":
    main()
