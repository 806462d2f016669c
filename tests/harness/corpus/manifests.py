"""Twenty manifests as a provider's provisioner takes them, and ten snapshots as ComfyUI-Manager saves them."""

from __future__ import annotations

import json
from collections.abc import Callable

import yaml

from .pick import COMMIT, HUB, NODES, PIP, Pick, repository_name

Data = dict[str, object]


def _files(pick: Pick, count: int, *folders: str) -> list[Data]:
    models = pick.models(count, *folders)
    return [
        {"url": each.url, "dest": f"${{WORKSPACE:-/workspace}}/ComfyUI/models/{each.place}"}
        for each in models
    ]


def _nodes(pick: Pick, count: int) -> list[Data]:
    return [
        {
            "url": url,
            "dest": f"/workspace/ComfyUI/custom_nodes/{repository_name(url)}",
            "post_commands": ["uv pip install --no-cache -r requirements.txt"],
        }
        for url in pick.nodes(count)
    ]


def small(pick: Pick) -> Data:
    return {"version": 1, "downloads": _files(pick, 2)}


def without_version(pick: Pick) -> Data:
    return {"apt_packages": pick.apt(2), "downloads": _files(pick, 2)}


def packages(pick: Pick) -> Data:
    return {
        "version": 1,
        "apt_packages": pick.apt(3),
        "pip_packages": [
            {"tool": "uv", "packages": pick.pip(3)},
            {"packages": pick.pip(2), "args": "--no-deps"},
        ],
    }


def plain_packages(pick: Pick) -> Data:
    return {"version": "1", "pip_packages": pick.pip(3), "downloads": _files(pick, 1)}


def nodes(pick: Pick) -> Data:
    return {"version": 1, "git_repos": _nodes(pick, 3), "downloads": _files(pick, 2)}


def program(pick: Pick) -> Data:
    url = pick.program()
    return {
        "version": 1,
        "settings": {"retry": {"max_attempts": 4}, "concurrency": {"hf_downloads": 2, "wget_downloads": 4}},
        "git_repos": [
            {"url": url, "dest": "/workspace/app", "ref": "v1.2", "post_commands": ["touch ready.txt"]}
        ],
        "pip_packages": [{"packages": pick.pip(2), "requirements": ["/workspace/app/requirements.txt"]}],
    }


def gated(pick: Pick) -> Data:
    wanted, instead = _files(pick, 2, "diffusion_models")
    return {
        "version": 1,
        "auth": {"huggingface": {"token_env": "HF_TOKEN"}},
        "conditional_downloads": [
            {"when": "hf_token_valid", "downloads": [wanted], "else_downloads": [instead]}
        ],
    }


def gated_alone(pick: Pick) -> Data:
    return {
        "version": 1,
        "conditional_downloads": [
            {
                "when": "civitai_token_valid",
                "downloads": [{"url": pick.civitai(), "dest": "/workspace/loras/"}],
            }
        ],
        "downloads": _files(pick, 1),
    }


def whole_repositories(pick: Pick) -> Data:
    kept, cached = pick.url(f"{HUB}/open-diffusers/tiny-pipeline"), pick.url(f"{HUB}/open-diffusers/chat-7b")
    return {"version": 1, "downloads": [{"url": kept, "dest": "/workspace/pipeline"}, {"url": cached}]}


def service(pick: Pick) -> Data:
    return {
        "version": 1,
        "downloads": _files(pick, 1),
        "write_files": [
            {
                "path": "/workspace/app/serve.py",
                "content": "import time\ntime.sleep(600)\n",
                "permissions": "0755",
            }
        ],
        "services": [
            {
                "name": "app",
                "portal_search_term": "App",
                "workdir": "${WORKSPACE:-/workspace}/app",
                "command": "python3 serve.py ${APP_ARGS:---quiet}",
                "pre_commands": ["mkdir -p cache"],
                "environment": {"CACHE": "${WORKSPACE:-/workspace}/app/cache"},
            }
        ],
    }


def commands(pick: Pick) -> Data:
    return {
        "version": 1,
        "git_repos": _nodes(pick, 1),
        "post_commands": [
            "mkdir -p ${WORKSPACE:-/workspace}/ComfyUI/input",
            f"uv pip install {pick.packages('peft')[0]}",
            "apt-get install -y " + pick.apt(1)[0],
        ],
    }


def conda(pick: Pick) -> Data:
    return {
        "version": 1,
        "conda_packages": [{"packages": pick.packages("nccl"), "channels": ["nvidia"]}],
        "pip_packages": [{"packages": pick.pip(2)}],
    }


def environment(pick: Pick) -> Data:
    model = pick.model()
    return {
        "version": 1,
        "env_merge": {"HF_MODELS": "downloads"},
        "downloads": [
            {
                "url": f"${{HF_MIRROR:-{HUB}}}{model.url.removeprefix(HUB)}",
                "dest": f"/workspace/models/{model.name}",
            }
        ],
    }


def workflows(pick: Pick) -> Data:
    workflow = pick.url("https://raw.githubusercontent.com/lab42/workflows/main/portrait.json")
    return {
        "version": 1,
        "extensions": [{"module": "provisioner_comfyui", "config": {"workflows": [workflow]}}],
        "downloads": _files(pick, 1),
    }


def late_files(pick: Pick) -> Data:
    return {
        "version": 1,
        "downloads": _files(pick, 1),
        "write_files_late": [
            {"path": "/workspace/.env.app", "content": "PORT=7860\n", "permissions": "0600"}
        ],
        "on_failure": {"action": "continue", "max_retries": 3},
    }


def by_server_named(pick: Pick) -> Data:
    return {
        "version": 1,
        "auth": {"civitai": {"token_env": "CIVITAI_TOKEN"}},
        "downloads": [{"url": pick.civitai(), "dest": "/workspace/ComfyUI/models/loras/"} for _ in range(2)],
    }


def pinned(pick: Pick) -> Data:
    url = pick.nodes(1)[0]
    return {
        "version": 1,
        "git_repos": [{"url": url, "dest": "/workspace/node", "ref": COMMIT, "recursive": False}],
        "downloads": _files(pick, 1),
    }


def beyond_the_workspace(pick: Pick) -> Data:
    model = pick.model()
    return {
        "version": 1,
        "downloads": [{"url": model.url, "dest": f"/opt/models/{model.name}"}, *_files(pick, 2)],
        "write_files": [{"path": "/etc/app.conf", "content": "a = 1\n"}],
    }


def everything(pick: Pick) -> Data:
    return {
        **commands(pick),
        "apt_packages": pick.apt(2),
        "pip_packages": [{"packages": pick.pip(3), "args": "--torch-backend auto"}],
        "downloads": _files(pick, 3),
    }


def two_environments(pick: Pick) -> Data:
    return {
        "version": 1,
        "pip_packages": [
            {"venv": "/workspace/venv", "packages": pick.pip(2)},
            {"venv": "/workspace/other", "packages": pick.pip(1)},
        ],
    }


MANIFESTS: tuple[Callable[[Pick], Data], ...] = (
    small, without_version, packages, plain_packages, nodes, program, gated, gated_alone, whole_repositories, service, commands, conda,
    environment, workflows, late_files, by_server_named, pinned, beyond_the_workspace, everything, two_environments,
)  # fmt: skip


def as_text(data: Data, number: int) -> str:
    """YAML, every fourth JSON."""
    return json.dumps(data, indent=2) if number % 4 == 3 else yaml.safe_dump(data, sort_keys=False)


def snapshot(number: int, pick: Pick) -> Data:
    """The snapshot *number*: some have nodes by address, some by the registry's name, most have both."""
    by_address: list[str] = [] if number in (3, 7) else pick.nodes(2 + number % 2)
    by_name: list[str] = [] if number in (1, 5) else pick.nodes(2)
    plain = pick.packages(*pick.chance.sample([each for each in PIP if not set(each) & set("<>=[")], 3))
    versions = {f"{name}==1.0": "" for name in plain}
    of_the_image = {
        "torch==2.7.1+cu128": "",
        "nvidia-cudnn-cu12==9.7.1": "",
        "dbus-python==1.2.18": "",
        "pip==24.0": "",
    }
    pips: Data = {**versions, **of_the_image} if number % 2 else dict(versions)
    if number == 4:
        pips[
            f"{pick.packages('color-matcher')[0]} @ https://wheels.example.org/color_matcher-1.0-py3-none-any.whl"
        ] = ""
    return {
        "comfyui": COMMIT,
        "git_custom_nodes": {
            (f"{url}.git" if number % 3 == 0 else url): {"hash": COMMIT, "disabled": False}
            for url in by_address
        },
        "cnr_custom_nodes": {repository_name(url).lower(): "1.0.3" for url in by_name},
        "file_custom_nodes": [{"filename": "my_node.py", "disabled": False}] if number == 6 else [],
        "pips": pips,
    }


NODE_MAP: dict[str, list[object]] = {
    "https://github.com/comfyanonymous/ComfyUI": [
        ["KSampler", "CLIPTextEncode", "VAEDecode", "SomeCoreNode"],
        {},
    ],
    **{f"https://github.com/{name}": [list(classes), {}] for name, classes in NODES.items()},
}
"""The list of ComfyUI-Manager, as far as the corpus needs it."""
