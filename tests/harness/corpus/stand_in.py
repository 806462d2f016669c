"""Where everything of the corpus can be had, on this machine: files and the model hub, repositories, an index, apt.

An instance in `environment` takes what its profile names from here: https goes through a proxy that answers for every host, git
is told where github.com is, and apt is played by small programs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import yaml
from provision_collector.demo.instance import EmbeddedInstance, free_port
from provision_collector.profile import Profile

from ..file_server import issue_certificate
from ..git_server import Origin, git
from ..package_index import PackageIndex
from ..public_hosts import Asked, PublicHosts, Reply
from .measure import Result
from .pick import COMMIT

HOSTS = (
    "huggingface.co", "civitai.com", "github.com", "raw.githubusercontent.com", "download.pytorch.org", "models.example.org",
    "pictures.example.org", "wheels.example.org", "drive.google.com", "drive.usercontent.google.com", "studio-models.s3.amazonaws.com",
    "studio-models.s3.us-east-1.amazonaws.com", "s3.amazonaws.com",
)  # fmt: skip
_APT = {
    "apt-get": '#!/bin/sh\nfor name; do case "$name" in -*|update|install|--) ;; *) echo "$name" >> "$FAKE_APT";; esac; done\n',
    "dpkg-query": '#!/bin/sh\nfor name; do :; done\ngrep -qx "$name" "$FAKE_APT" && echo "installed 1.0"\n',
    "dpkg": "#!/bin/sh\nexit 0\n",
    "sudo": '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n',
}
"""apt, as far as the agent asks it; this machine's own packages are left alone."""
_UNNAMED = ("civitai.com", "drive.google.com", "drive.usercontent.google.com")
"""Addresses there do not say the file's name."""
_TORCH = {"torchvision": "0.24.1", "torchaudio": "2.9.1"}
_MANAGER = "https://github.com/ltdrdata/ComfyUI-Manager"
_COMFYUI = ("https://github.com/comfyanonymous/ComfyUI", "https://github.com/Comfy-Org/ComfyUI")
_PINNED = re.compile(r"(?m)^( *(?:- )?ref: )'?[0-9a-f]{40}'?$")
"""A repository's commit, in the YAML of a profile: the stand-ins cannot have those of the real ones."""
WITHIN_S = 900.0
"""Of one run; not waited for."""


class StandIn:
    """Serve what *results* name while entered.

    Args:
        folder: For all of it.
        programs: A folder with ``provision``, and with ``uv`` for speed.
    """

    def __init__(self, folder: Path, results: Iterable[Result], programs: Path) -> None:
        self._folder = folder
        self._results = tuple(results)
        self._programs = programs
        self._stack = ExitStack()

    def __enter__(self) -> StandIn:
        self._authority, certificate = issue_certificate(str(self._folder), *HOSTS)
        self._index = self._stack.enter_context(PackageIndex())
        self._offer_packages()
        self._commit = self._make_repositories()
        self._hosts = self._stack.enter_context(PublicHosts(self._answer, certificate, has_heads=True))
        self._fake = self._folder / "fake"
        self._fake.mkdir()
        for name, text in _APT.items():
            (self._fake / name).write_text(text)
            (self._fake / name).chmod(0o755)
        if (self._programs / "uv").exists():
            (self._fake / "uv").symlink_to(self._programs / "uv")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def up(self, result: Result) -> dict[str, object]:
        """`provision up` of the profile of *result* on a fresh instance; its outcome."""
        folder = self._folder / f"run-{result.entry.name}"
        folder.mkdir()
        (folder / "profile.yaml").write_text(self._profile(result))
        with EmbeddedInstance(folder / "instance", environment=self._environment(folder)) as instance:
            (instance.home / ".gitconfig").write_text(
                f'[url "file://{self._folder}/origins/"]\n\tinsteadOf = https://github.com/\n\tinsteadOf = http://github.com/\n'
            )
            words = [
                "up",
                "--host",
                f"{instance.user}@{instance.host}:{instance.port}",
                "--key",
                str(instance.key_path),
            ]
            words += ["--profile", "./profile.yaml", "--workspace", str(instance.workspace), "--json"]
            done = subprocess.run(
                [str(self._programs / "provision"), *words],
                cwd=folder,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(folder),
                    "LANG": "C.UTF-8",
                    "HF_TOKEN": "hf_of_the_corpus",
                    "CIVITAI_TOKEN": "of-the-corpus",
                },
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=WITHIN_S,
            )
        shutil.rmtree(folder / "instance", ignore_errors=True)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        outcome: dict[str, object] = lines[-1] if lines else {"verdict": done.stderr[-2000:]}
        return outcome

    def _profile(self, result: Result) -> str:
        """What is run: the profile as it was made; with what it extends in it, pinned to the commit that is here."""
        text = (
            result.made.to_yaml(comment="corpus").replace(COMMIT, self._commit).replace("/venv/main", "venv")
        )
        if "extends" not in result.made.profile:
            return text
        whole = Profile.from_text(text, name="profile.yaml", overrides={"port": str(free_port())}).resolved()
        return _PINNED.sub(rf"\g<1>{self._commit}", yaml.safe_dump(whole, sort_keys=False))

    def _environment(self, folder: Path) -> dict[str, str]:
        (folder / "apt").write_text("git\n")
        system = os.environ["PATH"]
        return {
            **self._index.environment,
            "UV_DEFAULT_INDEX": self._index.url,
            "UV_INDEX_URL": self._index.url,
            "UV_CACHE_DIR": str(self._folder / "uv-cache"),
            "FAKE_APT": str(folder / "apt"),
            "PATH": f"{self._fake}:{system}",
            "https_proxy": self._hosts.proxy,
            "no_proxy": "127.0.0.1,localhost",
            "SSL_CERT_FILE": self._authority,
            "PIP_CERT": self._authority,
            "CUDA_VISIBLE_DEVICES": "",
        }

    # -- packages

    def _offer_packages(self) -> None:
        names = {"numpy", "sympy", "fsspec", "node-helper", "pip", "setuptools", "wheel"}
        for result in self._results:
            for layer in result.plan.python.layers if result.plan.python is not None else ():
                names |= {str(each) for each in layer.packages if not str(each).startswith("-")}
        for name in names:
            plain, _, wanted = name.partition(" @ ")[0].partition("[")[0].partition("==")
            plain = re.split(r"[<>~!]", plain)[0].lower().replace("_", "-")
            if not plain.startswith(("torch", "pip", "setuptools", "wheel")):
                extra = {"version": wanted} if wanted else {"version": "4.50" if ">=4" in name else "1.0"}
                self._index.add(plain, extra["version"])
        for index in ("whl/cpu", "simple"):
            self._index.add_torch("2.9.1+cpu", index=index)
            self._index.add_torch("2.7.1+cpu", index=index)
            for name, version in _TORCH.items():
                self._index.add(name, f"{version}+cpu", index=index)

    # -- repositories

    def _make_repositories(self) -> str:
        """Every repository that is named is one of two; the commit that all of them have."""
        node = Origin(str(self._folder / "node"))
        node.commit(
            {
                "__init__.py": "NODE_CLASS_MAPPINGS = {}\n",
                "requirements.txt": "node-helper\n",
                "README.md": "a node\n",
            }
        )
        program = Path(__file__).with_name("..").resolve() / "comfyui_stand_in.py"
        main = program.read_text().replace('"KSampler": "nodes"', '"KSampler": "nodes", "VAEDecode": "nodes"')
        git(node.path, "checkout", "--quiet", "--orphan", "comfyui")
        git(node.path, "rm", "-rqf", ".")
        folders = {
            f"{folder}/put_here": ""
            for folder in ("custom_nodes", "models/loras", "input", "user/default/workflows")
        }
        commit = node.commit(
            {
                "main.py": main,
                "requirements.txt": "numpy\n",
                "__init__.py": "NODE_CLASS_MAPPINGS = {}\n",
                **folders,
            }
        )
        comfyui = self._folder / "comfyui"
        for name in ("v0.3.60", "master"):
            git(node.path, "branch", name)
        shutil.copytree(node.path, comfyui)
        git(node.path, "checkout", "--quiet", "main")
        for name in ("v1.2", "dev"):
            git(node.path, "branch", name)
        named = {repo.url for result in self._results for repo in result.plan.repos} | {_MANAGER}
        for url in (*named, *_COMFYUI):
            place = self._folder / "origins" / re.sub(r"^https?://github\.com/", "", url)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.symlink_to(comfyui if url.removesuffix(".git") in _COMFYUI else node.path)
        return commit

    # -- files

    def _answer(self, asked: Asked) -> Reply:
        if asked.host == "download.pytorch.org":
            return self._of_the_index(asked.path)
        if asked.host == "wheels.example.org":
            name = asked.path.strip("/").split("/")[-1]
            package = name.partition("-")[0].replace("_", "-")
            return self._of_the_index(
                f"/simple/{package}/{name}" if name.endswith(".whl") else f"{asked.path}"
            )
        if asked.host == "huggingface.co" and asked.path.startswith("/api/"):
            return _hub(asked.path)
        if asked.host == "civitai.com" and not asked.path.startswith("/api/download/"):
            return Reply(404)
        body = _content(f"{asked.path}.safetensors" if asked.host in _UNNAMED else asked.path)
        headers: dict[str, str] = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        if asked.host == "civitai.com":
            name = f"model_{asked.path.rpartition('/')[2]}.safetensors"
            headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return Reply(body=body, headers=headers, has_ranges=True)

    def _of_the_index(self, path: str) -> Reply:
        try:
            with urllib.request.urlopen(f"{self._index.base}{path}", timeout=10) as answer:
                return Reply(
                    body=answer.read(),
                    headers={"Content-Type": answer.headers["Content-Type"]},
                    has_ranges=True,
                )
        except urllib.error.HTTPError as error:
            return Reply(error.code)


NAMES = ("config.json", "model.safetensors", "weights/part.safetensors")
"""Of the files of every whole repository of the hub."""


def _hub(path: str) -> Reply:
    found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
    if found is None:
        return Reply(404)
    about = {"id": found[1], "sha": "1" * 40, "siblings": [{"rfilename": name} for name in NAMES]}
    place = f"/{found[1]}/resolve/main/"
    tree = [
        {"type": "file", "path": name, "size": len(_content(place + name)), "oid": "0" * 40} for name in NAMES
    ]
    body = json.dumps(tree if found[2] == "tree" else about).encode()
    return Reply(body=body, headers={"Content-Type": "application/json"})


def _content(path: str) -> bytes:
    """What is at *path*: the same bytes each time; an archive where the name says so."""
    out = io.BytesIO()
    path = re.sub(r"/resolve/[^/]+/", "/resolve/main/", path)
    if path.endswith(".zip"):
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("inside.txt", "a")
    elif path.endswith(".tar.gz"):
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            member = tarfile.TarInfo("inside.txt")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"a"))
    elif path.endswith(".json"):
        out.write(b'{"nodes": []}')
    elif path.endswith(".png"):
        out.write(b"\x89PNG\r\n\x1a\n" + path.encode())
    elif path.endswith(".safetensors"):
        header = json.dumps({"t": {"dtype": "U8", "shape": [2000], "data_offsets": [0, 2000]}}).encode()
        out.write(len(header).to_bytes(8, "little") + header + hashlib.sha256(path.encode()).digest() * 63)
        return out.getvalue()[: 8 + len(header) + 2000]
    elif path.endswith(".gguf"):
        out.write(b"GGUF\x03\0\0\0" + bytes(16) + path.encode())
    else:
        out.write(hashlib.sha256(path.encode()).digest() * 64)
    return out.getvalue()
