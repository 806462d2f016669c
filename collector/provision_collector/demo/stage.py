"""Everything that `provision demo` needs: an instance, file hosts with their faults, a repository, a profile.

All of it lives in one folder and in this process; leaving the context ends every part of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from .file_server import FileHost, Model
from .instance import EmbeddedInstance, free_port

GIT_TIMEOUT_S = 30.0

CHECKPOINT = "/sd_xl_demo.safetensors"
ENCODER = "/umt5_demo.safetensors"
UPSCALER = "/4x_demo.safetensors"
VAE = "/vae_demo.safetensors"

MODELS = {
    CHECKPOINT: Model(180_000_000, seed=1),
    ENCODER: Model(90_000_000, seed=2),
    UPSCALER: Model(30_000_000, seed=3),
    VAE: Model(18_000_000, seed=4),
}


MOODS = {
    "quick": "quick: 40 MB/s for all, 4 MB/s for each connection",
    "slow": "slow: 1.2 MB/s",
    "moody": "moody: 503 at first, then as usual",
    "broken": "broken: 503, then 404 for good",
}


@dataclass(frozen=True)
class Stage:
    """A demo that is ready to begin; the paths are inside `directory`."""

    directory: Path
    instance: EmbeddedInstance
    hosts: dict[str, FileHost]
    """By what they are like, as in `MOODS`."""
    profile: Path
    logs: Path
    known_hosts: Path
    ssh_config: Path

    @property
    def arguments(self) -> list[str]:
        """The arguments of ``provision`` that run the demo."""
        return [
            "up",
            *("--host", f"{self.instance.user}@{self.instance.host}:{self.instance.port}"),
            *("--key", str(self.instance.key_path)),
            *("--known-hosts", str(self.known_hosts)),
            *("--ssh-config", str(self.ssh_config)),
            *("--profile", str(self.profile)),
            *("--logs-dir", str(self.logs)),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """What `arguments` need in the environment, so that the list of the user's runs stays as it is."""
        return {"XDG_STATE_HOME": str(self.directory / "state")}


@contextmanager
def set_up(directory: Path) -> Iterator[Stage]:
    """Bring up every part of the demo in *directory*."""
    directory = directory.resolve()
    with ExitStack() as stack:
        hosts = {name: stack.enter_context(host) for name, host in _file_hosts().items()}
        repository = _make_repository(directory)
        instance = stack.enter_context(EmbeddedInstance(directory / "instance"))
        profile = directory / "demo.yaml"
        profile.write_text(_profile(instance, hosts, repository))
        ssh_config = directory / "ssh_config"
        ssh_config.touch()
        yield Stage(
            directory=directory,
            instance=instance,
            hosts=hosts,
            profile=profile,
            logs=directory / "logs",
            known_hosts=directory / "known_hosts",
            ssh_config=ssh_config,
        )


def _file_hosts() -> dict[str, FileHost]:
    return {
        "quick": FileHost(
            {path: MODELS[path] for path in (CHECKPOINT, ENCODER, UPSCALER)},
            address="127.0.0.11",
            bytes_per_s=40e6,
            connection_bytes_per_s=4e6,
        ),
        "slow": FileHost({VAE: MODELS[VAE]}, address="127.0.0.12", bytes_per_s=1.2e6),
        "moody": FileHost(
            {ENCODER: MODELS[ENCODER]},
            address="127.0.0.13",
            bytes_per_s=20e6,
            connection_bytes_per_s=3e6,
            faults={ENCODER: (503, 503, None)},
            retry_after_s=3,
        ),
        "broken": FileHost({}, address="127.0.0.14", faults={UPSCALER: (503, 404)}),
    }


def _profile(instance: EmbeddedInstance, hosts: dict[str, FileHost], repository: str) -> str:
    folder = Path(__file__).parent
    program = (folder / "comfyui.py").read_text()
    repos = (
        Template((folder / "repos.yaml").read_text()).substitute(url=json.dumps(repository))
        if repository
        else ""
    )
    return Template((folder / "profile.yaml").read_text()).substitute(
        workspace=json.dumps(str(instance.workspace)),
        service_port=free_port(),
        program="".join(f"      {line}".rstrip() + "\n" for line in program.splitlines()),
        repos=repos,
        quick=hosts["quick"].url(""),
        slow=hosts["slow"].url(""),
        moody=hosts["moody"].url(""),
        broken=hosts["broken"].url(""),
        **{f"size_{_word(path)}": model.size_bytes for path, model in MODELS.items()},
        **{f"sha256_{_word(path)}": model.sha256 for path, model in MODELS.items()},
    )


def _word(path: str) -> str:
    return path.strip("/").partition(".")[0]


def _make_repository(directory: Path) -> str:
    """A bare repository with one custom node, as a URL; empty where there is no git."""
    if shutil.which("git") is None:
        return ""
    source, bare = directory / "custom-node", directory / "custom-node.git"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    _git(source, "init", "--quiet", "--initial-branch=main")
    _git(source, "add", "--all")
    _git(source, "commit", "--quiet", "--no-gpg-sign", "--message=The demo's custom node")
    _git(directory, "clone", "--quiet", "--bare", str(source), str(bare))
    return bare.as_uri()


def _git(folder: Path, *arguments: str) -> None:
    """Run git without any configuration of the user, whose hooks and signing keys are no part of the demo."""
    identity = {
        f"GIT_{who}_{what}": f"demo@{who}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True,
        timeout=GIT_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        env={
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            **identity,
        },
    )
