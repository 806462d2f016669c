"""Profiles from workflows, manifests, scripts, snapshots and archives: everything comes out, or is named."""

from __future__ import annotations

import importlib.util
import json
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.samples import examples, sampled
from hypothesis import given, settings
from hypothesis import strategies as st
from provision_agent.contract.findings import CaptureAnswer
from provision_agent.contract.parsing import parse
from provision_agent.contract.plan import Plan
from provision_collector.cli import main
from provision_collector.convert import Converted, from_file, from_workflows
from provision_collector.convert.capture import from_capture
from provision_collector.convert.image import PNG
from provision_collector.convert.manifest import from_manifest
from provision_collector.convert.shell import from_script
from provision_collector.convert.snapshot import from_snapshot
from provision_collector.errors import ProfileError, UsageError
from provision_collector.profile import Profile, compile_plan

H = "https://huggingface.co/a/b/resolve/main"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def plan_of(converted: Converted) -> Plan:
    """The plan of what a converted profile says, as its file would be read."""
    return compile_plan(Profile.from_text(converted.to_yaml(comment="test")))


def urls_of(plan: Plan) -> set[tuple[str, str]]:
    return {(item.path, url) for item in plan.downloads for url in (item.url, *item.mirrors)}


@pytest.fixture
def workflow(tmp_path: Path):
    def convert(*datas: Any) -> Converted:
        paths = [tmp_path / f"w{number}.json" for number in range(len(datas))]
        for path, data in zip(paths, datas, strict=True):
            path.write_text(json.dumps(data))
        return from_workflows(paths)

    return convert


def node(
    type_: str = "UNETLoader", *, models: list[Any] | None = None, widgets: Any = None, **properties: Any
) -> dict[str, Any]:
    return {
        "id": 7,
        "type": type_,
        "properties": {"models": models or [], **properties},
        "widgets_values": widgets,
    }


def model(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "url": f"{H}/{name}", "directory": "vae", **more}


# -- workflows


def templates() -> list[Path]:
    """The official templates, of the package that ComfyUI itself shows them from."""
    found = importlib.util.find_spec("comfyui_workflow_templates_json")
    assert found is not None and found.origin is not None, "pip install -e '.[dev]'"
    return sorted((Path(found.origin).parent / "templates").glob("*.json"))


def model_entries(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every model entry of a template, found by looking everywhere."""
    stack: list[Any] = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            models = value.get("models")
            entries = models if isinstance(models, list) else []
            yield from (
                entry for entry in entries if isinstance(entry, dict) and "url" in entry
            )  # others are 3D scenes
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def test_every_model_entry_of_every_official_template_comes_out() -> None:
    count, workflows = 0, []
    for path in templates():
        data = json.loads(path.read_bytes())
        if not isinstance(data, dict) or "nodes" not in data:
            with pytest.raises(UsageError, match="no ComfyUI workflow"):
                from_workflows([path])
            continue
        workflows.append(path)
        converted = from_workflows([path])
        found = {
            (item["path"], url)
            for item in converted.profile.get("downloads", [])
            for url in (item["url"], *item.get("mirrors", []))
        }
        for entry in model_entries(data):
            path_ = f"ComfyUI/models/{entry['directory']}/{entry['name']}"
            assert (path_, entry["url"].removesuffix("?download=true")) in found, (path.name, entry)
            count += 1
        assert not [sentence for sentence in converted.unresolved if "says no source" in sentence], path.name
    assert len(workflows) > 600 and count > 1000
    assert len(plan_of(from_workflows(workflows)).downloads) > 300


def test_models_come_from_nodes_subgraphs_the_top_and_wrappings(workflow) -> None:
    inner = {
        "nodes": [node(models=[model("sub.safetensors")])],
        "definitions": {"subgraphs": [{"nodes": [node(models=[model("deep.safetensors")])]}]},
    }
    whole = {
        "nodes": [node(models=[model("node.safetensors")])],
        "models": [model("top.safetensors")],
        "definitions": {"subgraphs": [inner]},
    }
    wrapped = {
        "extra_data": {"extra_pnginfo": {"workflow": {"nodes": [node(models=[model("png.safetensors")])]}}}
    }

    plan = plan_of(workflow(whole, wrapped))

    names = {item.path.rpartition("/")[2].partition(".")[0] for item in plan.downloads}
    assert names == {"node", "top", "sub", "deep", "png"}


def test_a_hash_is_kept_and_a_second_source_becomes_a_mirror(workflow) -> None:
    first = model("x.safetensors", hash="A" * 64, hash_type="SHA256")
    second = {**model("x.safetensors"), "url": "https://example.org/x.safetensors?download=true"}
    other = {**model("x.safetensors", hash="b" * 64, hash_type="SHA256"), "url": "https://example.org/other"}

    converted = workflow({"nodes": [node(models=[first, second, other])]})

    [item] = plan_of(converted).downloads
    assert (item.sha256, item.mirrors) == ("a" * 64, ("https://example.org/x.safetensors",))
    assert ["two contents" in sentence for sentence in converted.unresolved] == [True]


def test_a_model_that_a_widget_names_without_a_source_is_listed_with_its_folder(workflow) -> None:
    converted = workflow(
        {
            "nodes": [
                node("LoraLoader", widgets=["style/mine.safetensors", 0.8, "a text.", None]),
                node("VAELoader", widgets={"vae_name": "v.pt"}),
            ]
        }
    )

    assert [sentence.partition(" wants ")[2] for sentence in converted.unresolved] == [
        "`style/mine.safetensors` and says no source: add `{url: …, path: ComfyUI/models/loras/style/mine.safetensors}`"
        "; by the check `Model style/mine.safetensors` a run without it is `incomplete`",
        "`v.pt` and says no source: add `{url: …, path: ComfyUI/models/vae/v.pt}`"
        "; by the check `Model v.pt` a run without it is `incomplete`",
    ]
    assert [(check["glob"], check["level"]) for check in converted.listed("checks")] == [
        (["ComfyUI/models/**/style/mine.safetensors"], "required"),
        (["ComfyUI/models/**/v.pt"], "required"),
    ]


def test_a_name_that_another_entry_resolves_is_not_open(workflow) -> None:
    converted = workflow(
        {"nodes": [node("VAELoader", widgets=["x.safetensors"])]},
        {"nodes": [node(models=[model("x.safetensors")])]},
    )

    assert converted.unresolved == []


def test_an_api_format_workflow_names_its_files_and_its_classes(workflow) -> None:
    prompt = {
        "3": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["4", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
        "5": {"class_type": "MyNode", "inputs": {}},
    }
    for data in (prompt, {"prompt": prompt, "client_id": "x"}):
        converted = workflow(data)

        assert len(converted.unresolved) == 2
        assert "MyNode" in converted.unresolved[0] and "KSampler" not in converted.unresolved[0]
        assert "ComfyUI/models/checkpoints/sd.safetensors" in converted.unresolved[1]


def test_custom_nodes_become_repos_or_are_listed(workflow) -> None:
    converted = workflow(
        {
            "nodes": [
                node(cnr_id="comfy-core", ver="0.3.1"),
                node(aux_id="someone/some-node", ver=COMMIT),
                node(cnr_id="ComfyUI-KJNodes", ver="1.2.3"),
                node(cnr_id="never-heard-of", ver="2.0"),
                node(aux_id="../../etc/passwd"),
            ]
        }
    )

    repos = {
        repo.url: (repo.path, repo.ref) for repo in plan_of(converted).repos if repo.path.count("/") == 2
    }
    assert repos["https://github.com/someone/some-node"] == ("ComfyUI/custom_nodes/some-node", COMMIT)
    assert repos["https://github.com/kijai/ComfyUI-KJNodes"] == ("ComfyUI/custom_nodes/ComfyUI-KJNodes", None)
    assert ["never-heard-of" in sentence or "passwd" in sentence for sentence in converted.unresolved] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    "name", ["../../x.safetensors", "/etc/x.safetensors", "a\\..\\..\\..\\..\\..\\x.safetensors"]
)
def test_a_model_never_leaves_the_workspace(workflow, name: str) -> None:
    converted = workflow({"nodes": [node(models=[{**model("x"), "name": name, "directory": ".."}])]})

    assert all(".." not in item["path"] for item in converted.profile.get("downloads", []))


def test_a_text_of_a_workflow_is_never_a_variable(workflow) -> None:
    [item] = plan_of(workflow({"nodes": [node(models=[model("${HOME}.safetensors")])]})).downloads

    assert item.path == "ComfyUI/models/vae/$${HOME}.safetensors", "escaped until the instance unescapes it"


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


@pytest.mark.parametrize(
    "text",
    {
        "as ComfyUI saves it": lambda json_: (
            chunk(b"tEXt", b"prompt\0{}") + chunk(b"tEXt", b"workflow\0" + json_)
        ),
        "compressed": lambda json_: chunk(b"zTXt", b"workflow\0\0" + zlib.compress(json_)),
        "international": lambda json_: chunk(b"iTXt", b"workflow\0\0\0en\0\0" + json_),
    }.values(),
)
def test_a_picture_that_comfyui_saved_is_as_good_as_its_workflow(tmp_path: Path, text) -> None:
    data = json.dumps({"nodes": [node(models=[model("x.safetensors")])]}).encode()
    (tmp_path / "image.png").write_bytes(PNG + chunk(b"IHDR", bytes(13)) + text(data) + chunk(b"IEND", b""))

    assert len(plan_of(from_workflows([tmp_path / "image.png"])).downloads) == 1


def test_a_picture_without_a_workflow_says_so(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(PNG + chunk(b"IEND", b""))

    with pytest.raises(UsageError, match="has none inside"):
        from_workflows([tmp_path / "image.png"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["x.safetensors", "${A:-b}", "https://h/x", "/workspace/x"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["nodes", "properties", "models", "name", "url", "directory", "definitions", "subgraphs", "inputs", "class_type", "widgets_values", "cnr_id", "aux_id", "prompt", "workflow", "extra", "node_versions"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@sampled
@settings(max_examples=examples(40), deadline=None)
@given(data=JSON)
def test_whatever_json_comes_in_a_workflow_is_read_or_refused(
    data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(data))
    try:
        from_workflows([path]).to_yaml(comment="")
    except UsageError:
        pass


# -- manifests

MANIFEST = """
version: 1
settings:
  venv: /venv/main
  log_file: /var/log/p.log
  concurrency: {hf_downloads: 2, wget_downloads: 4}
  retry: {max_attempts: 3, initial_delay: 1}
auth: {huggingface: {token_env: MY_HF}}
apt_packages: [vim, curl]
pip_packages:
  - {tool: uv, packages: [einops], args: "--extra-index-url https://e.org", requirements: [/workspace/repo/requirements.txt]}
git_repos:
  - {url: https://github.com/example/repo, dest: "${WORKSPACE}/repo", ref: main, recursive: true, post_commands: ["make"]}
downloads:
  - {url: https://huggingface.co/org/m/resolve/main/w.safetensors, dest: "${MODELS:-/workspace/models}/w.safetensors"}
  - {url: https://civitai.com/api/download/models/12345, dest: /workspace/loras/}
  - {url: https://example.com/file.bin, dest: /tmp/file.bin}
conditional_downloads:
  - when: hf_token_valid
    downloads: [{url: https://huggingface.co/org/gated/resolve/main/g.bin, dest: /workspace/g.bin}]
    else_downloads: [{url: https://huggingface.co/org/open/resolve/main/o.bin, dest: /workspace/o.bin}]
  - when: hf_token_valid
    downloads: [{url: https://huggingface.co/org/gated/resolve/main/h.bin, dest: /workspace/h.bin}]
env_merge: {HF_MODELS: downloads}
services:
  - {name: app, portal_search_term: App, workdir: /workspace/repo, command: "python app.py --port 7860", wait_for_provisioning: true, environment: {A: 1}}
  - {name: shell, command: "cd /x && ./run"}
write_files: [{path: /workspace/a.conf, content: "cost: $5\\n", permissions: "0600"}]
extensions: [{module: x}]
post_commands: ["echo done"]
"""


def test_a_manifest_becomes_a_profile_and_every_other_key_is_named() -> None:
    converted = from_manifest(yaml.safe_load(MANIFEST), "vast")
    plan = plan_of(converted)

    assert (plan.apt, plan.limits.hosts["huggingface.co"].files) == (("vim", "curl"), 2)
    assert plan.python is not None and (plan.python.venv, plan.python.layers[0].packages) == (
        "/venv/main",
        ("einops",),
    )
    [repo] = plan.repos
    assert (repo.path, repo.ref, repo.submodules, repo.install) == ("repo", "main", True, "requirements.txt")
    assert {item.path for item in plan.downloads} == {"models/w.safetensors", "loras/", "g.bin", "h.bin"}
    by_path = {item.path: item for item in plan.downloads}
    assert by_path["g.bin"].substitute is not None and by_path["g.bin"].substitute.path == "o.bin"
    assert by_path["h.bin"].when is not None and by_path["h.bin"].when.secret == "MY_HF"
    assert by_path["g.bin"].limits.attempts == 3
    assert [command.run[2] for command in plan.commands] == ["make", "echo done"]
    app, shell = plan.services
    assert (app.run, app.directory, app.start) == (("python", "app.py", "--port", "7860"), "repo", "complete")
    assert shell.run == ("bash", "-c", "cd /x && ./run")
    assert (plan.files[0].path, plan.files[0].content, plan.files[0].mode) == ("a.conf", "cost: $5\n", "0600")
    named = "\n".join(converted.unresolved)
    for key in (
        "settings.log_file", "concurrency.wget_downloads", "retry.initial_delay", "pip_packages[0].args", "downloads[2]",
        "HF_MODELS", "services[0].portal_search_term", "extensions", "${MODELS:-/workspace/models}",
    ):  # fmt: skip
        assert key in named, key
    assert len(converted.unresolved) == 9


MANIFEST_KEYS = [*yaml.safe_load(MANIFEST), "url", "dest", "packages", "requirements", "command", "name", "environment", "when", "else_downloads", "path", "content", "huggingface", "token_env", "concurrency", "retry"]  # fmt: skip


@sampled
@settings(max_examples=examples(40), deadline=None)
@given(
    data=st.dictionaries(
        st.sampled_from(MANIFEST_KEYS),
        JSON | st.lists(st.dictionaries(st.sampled_from(MANIFEST_KEYS), JSON, max_size=4), max_size=2),
        max_size=5,
    )
)
def test_whatever_a_manifest_holds_nothing_breaks(data: dict[str, Any]) -> None:
    from_manifest(data, "any").to_yaml(comment="")


# -- scripts

SCRIPT = """#!/bin/bash
HF="https://huggingface.co"
NODES=(
    "https://github.com/ltdrdata/ComfyUI-Manager"   # the (manager)
    "https://github.com/cubiq/ComfyUI_essentials"
)
CHECKPOINT_MODELS=(
    "$HF/a/b/resolve/main/x.safetensors|https://mirror.example.org/x.safetensors|sdxl.safetensors"
    "https://civitai.com/api/download/models/798204?type=Model&token=$CIVITAI_TOKEN"
)
LORA_MODELS=()
ODD_THINGS=("https://e.org/z.bin")
APT_PACKAGES=( "unzip" 'ffmpeg' )
PIP_PACKAGES=("einops")
if has_token; then
  UNET_MODELS+=("${HF}/c/d/resolve/main/flux.safetensors")
  VAE_MODELS+=("$(pick)")
fi
BROKEN=( "no end
"""


def test_the_arrays_of_a_script_become_a_profile_without_running_anything() -> None:
    converted = from_script(SCRIPT, "provision")
    plan = plan_of(converted)

    assert urls_of(plan) == {
        (
            "ComfyUI/models/checkpoints/sdxl.safetensors",
            "https://huggingface.co/a/b/resolve/main/x.safetensors",
        ),
        ("ComfyUI/models/checkpoints/sdxl.safetensors", "https://mirror.example.org/x.safetensors"),
        ("ComfyUI/models/checkpoints/", "https://civitai.com/api/download/models/798204?type=Model"),
        (
            "ComfyUI/models/diffusion_models/flux.safetensors",
            "https://huggingface.co/c/d/resolve/main/flux.safetensors",
        ),
    }
    assert {"unzip", "ffmpeg"} <= set(plan.apt)
    assert {rule.name: rule.hosts for rule in plan.secrets if not rule.is_default} == {
        "HF_TOKEN": ("huggingface.co",),
        "CIVITAI_TOKEN": ("civitai.com",),
    }
    manager = next(repo for repo in plan.repos if repo.path.endswith("ComfyUI-Manager"))
    assert (manager.level, len(manager.mirrors)) == ("critical", 1), "the base's own, with its mirror"
    named = "\n".join(converted.unresolved)
    assert all(word in named for word in ("ODD_THINGS", "$(pick)", "BROKEN", "only the script's arrays"))
    assert "token=" not in converted.to_yaml(comment="")


def test_a_script_asks_for_the_token_of_every_host_that_the_registry_knows_to_want_one() -> None:
    script = (
        'LORA_MODELS=("https://civitai.red/api/download/models/7|a" "civitai:8|b" "hf://a/b/c.safetensors")'
    )

    plan = plan_of(from_script(script, "provision"))

    assert {rule.name: rule.hosts for rule in plan.secrets if not rule.is_default} == {
        "HF_TOKEN": ("huggingface.co",),
        "CIVITAI_TOKEN": ("civitai.com", "civitai.red"),
    }


@sampled
@settings(max_examples=examples(40), deadline=None)
@given(text=st.text(alphabet="ABC_MODELS=(\"'|$#{}\n )https://x.y/", max_size=120))
def test_whatever_a_script_holds_nothing_breaks(text: str) -> None:
    from_script(text, "any").to_yaml(comment="")


# -- snapshots and archives


def test_a_snapshot_pins_comfyui_its_nodes_and_packages(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    data = {
        "comfyui": COMMIT,
        "git_custom_nodes": {
            "https://github.com/a/node.git": {"hash": COMMIT, "disabled": False},
            "https://github.com/a/off": {"hash": COMMIT, "disabled": True},
        },
        "cnr_custom_nodes": {"comfyui-kjnodes": "1.0.5", "unheard": "1.0"},
        "file_custom_nodes": [{"filename": "mine.py", "disabled": False}],
        "pips": {
            "einops==0.8.0": "",
            "torch==2.7.1+cu128": "",
            "x @ git+https://e.org/x": "",
            "y @ file:///build/y": "",
            "pip==24.0": "",
        },
        "new_key": {"a": 1},
    }
    path.write_text(json.dumps(data))

    converted = from_file(path)
    plan = plan_of(converted)

    repos = {repo.path: repo for repo in plan.repos}
    assert (repos["ComfyUI"].ref, repos["ComfyUI"].level, repos["ComfyUI"].install) == (
        COMMIT,
        "critical",
        "requirements.txt",
    )
    assert repos["ComfyUI/custom_nodes/node"].ref == COMMIT
    assert repos["ComfyUI/custom_nodes/ComfyUI-KJNodes"].ref is None
    assert "ComfyUI/custom_nodes/off" not in repos
    assert plan.python is not None and plan.python.layers[-1].packages == (
        "einops==0.8.0",
        "x @ git+https://e.org/x",
    )
    named = "\n".join(converted.unresolved)
    assert all(
        word in named
        for word in ("a/off", "1.0.5", "unheard", "mine.py", "torch==2.7.1", "y @ file", "new_key")
    )


def test_a_comfy_pack_archive_brings_models_with_their_hashes(tmp_path: Path) -> None:
    path = tmp_path / "mine.cpack.zip"
    models = [
        {
            "filename": "models/vae/a.safetensors",
            "size": 5,
            "sha256": "a" * 64,
            "source": {"download_url": f"{H}/a.safetensors"},
        },
        {"filename": "models/vae/b.safetensors", "size": 5, "sha256": "b" * 64},
    ]
    snapshot = {
        "python": "3.12",
        "comfyui": COMMIT,
        "models": models,
        "custom_nodes": [{"url": "https://github.com/a/n", "commit_hash": COMMIT}],
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("snapshot.json", json.dumps(snapshot))
        archive.writestr("requirements.txt", "einops==0.8.0 ; python_version > '3'\n# a comment\n-e .\n")
        archive.writestr("input/image.png", "x")

    converted = from_file(path)
    plan = plan_of(converted)

    [item] = plan.downloads
    assert (item.path, item.sha256, item.size_bytes) == ("ComfyUI/models/vae/a.safetensors", "a" * 64, 5)
    assert plan.python is not None and plan.python.layers[-1].packages == ("einops==0.8.0",)
    named = "\n".join(converted.unresolved)
    assert all(word in named for word in ("b" * 64, "image.png", "3.12", "-e ."))


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04broken", b"[1]", b"version: 2\n", b"\0\1", b"version: 1\nrepos: []\n"],
)
def test_a_file_that_is_nothing_known_is_refused_with_what_would_be(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)

    with pytest.raises(UsageError) as error:
        from_file(path)

    assert error.value.hint


FOREIGN = {
    "an alias bomb": "version: 1\na: &a [x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 8)}]\n" for n in range(12)),
    "an alias that contains itself": "version: 1\na: &a [*a]\n",
    "a day that does not exist": "version: 1\nsettings: {log: 2024-02-31}\n",
    "deep YAML": "version: 1\na: " + "[" * 3000,
    "deep JSON": '{"version": 1, "a": ' + "[" * 200 + "]" * 200 + "}",
    "very deep JSON": "[" * 100_000,
    "a huge number": '{"version": 1, "a": ' + "9" * 5000 + "}",
    "a tag": "version: 1\na: !!python/object/apply:os.system [x]\n",
    "lists for mappings": '{"git_custom_nodes": ["a"], "cnr_custom_nodes": [1], "pips": ["a"], "file_custom_nodes": {"a": 1}}',
    "words for nodes": '{"git_custom_nodes": {"https://github.com/a/b": "x"}, "file_custom_nodes": ["x", 1], "comfyui": ["x"]}',
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_no_document_breaks_an_import(tmp_path: Path, case: str) -> None:
    """It becomes a profile that names what it could not use, or is refused with its place or with what would be read."""
    path = tmp_path / "x.yaml"
    path.write_text(FOREIGN[case])
    try:
        converted = from_file(path)
    except UsageError as error:
        assert error.hint
    except ProfileError as error:
        assert all(problem.startswith(f"{path}:") for problem in error.problems)
    else:
        assert converted.unresolved
        converted.to_yaml(comment="")


def test_a_picture_that_would_unpack_to_gigabytes_takes_no_more_memory_than_its_workflow(
    tmp_path: Path,
) -> None:
    large = b"\0" + zlib.compress(bytes(24 << 20))
    names = [*(f"key{number}".encode() for number in range(40)), *[b"prompt"] * 10, b"workflow"]
    chunks = b"".join(chunk(b"zTXt", name + b"\0" + large) for name in names)
    path = tmp_path / "bomb.png"
    path.write_bytes(PNG + chunks + chunk(b"IEND", b""))

    tracemalloc.start()
    with pytest.raises((UsageError, ProfileError)):
        from_workflows([path])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(path.read_bytes()) < 2 << 20
    assert peak_bytes < 300 << 20


def test_permissions_without_quotes_are_taken_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("version: 1\nwrite_files: [{path: /workspace/a, content: x, permissions: 0600}]\n")

    assert plan_of(from_file(path)).files[0].mode == "0600"


SNAPSHOT_KEYS = ["comfyui", "git_custom_nodes", "cnr_custom_nodes", "file_custom_nodes", "pips", "custom_nodes", "models", "python", "hash", "disabled", "filename", "source", "download_url", "url", "sha256", "size"]  # fmt: skip


@sampled
@settings(max_examples=examples(40), deadline=None)
@given(data=st.dictionaries(st.sampled_from(SNAPSHOT_KEYS), JSON | st.lists(st.dictionaries(st.sampled_from(SNAPSHOT_KEYS), JSON), max_size=2), max_size=6))  # fmt: skip
def test_whatever_a_snapshot_or_an_archive_holds_nothing_breaks(
    data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from_snapshot(data, "any").to_yaml(comment="")
    path = tmp_path_factory.getbasetemp() / "any.cpack.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("snapshot.json", json.dumps(data))
    from_file(path).to_yaml(comment="")


# -- captures


def test_a_capture_keeps_torchs_version_and_leaves_its_build_to_the_next_card() -> None:
    repo = {"path": "ComfyUI", "url": "https://github.com/comfyanonymous/ComfyUI", "commit": COMMIT, "is_changed": True, "has_requirements": True, "has_submodules": False}  # fmt: skip
    found = {
        "workspace": "/workspace",
        "comfyui": "ComfyUI",
        "repos": [repo],
        "loose": ["ComfyUI/custom_nodes/mine"],
        "models": [],
        "python": "/venv/bin/python",
        "packages": ["einops==0.8.0", "torch==2.7.1+cu128", "torchvision==0.22.1+cu128"],
        "service": ["-u", "/workspace/ComfyUI/main.py", "--port", "18188"],
    }

    converted = from_capture(parse(CaptureAnswer, found), "203.0.113.7")
    plan = plan_of(converted)

    assert plan.python is not None
    assert plan.python.layers[0].torch is not None and plan.python.layers[0].torch.versions == ("2.7.1",)
    assert plan.python.layers[0].torch.extras == ("torchvision==0.22.1",)
    assert plan.python.layers[1].packages == ("einops==0.8.0",)
    assert plan.services[0].run == ("python", "-u", "main.py", "--port", "18188")
    assert plan.services[0].ready is not None and ":18188/" in plan.services[0].ready.url
    assert plan.repos[0].install is None, "its requirements are among the packages"
    assert any("mine" in sentence for sentence in converted.unresolved)
    assert any("changes of its own" in sentence for sentence in converted.unresolved)


def test_a_capture_keeps_what_was_asked_for_and_tells_each_open_thing_in_one_line() -> None:
    found = {
        "workspace": "/workspace",
        "comfyui": "ComfyUI",
        "packages": [
            "einops==0.8.0",
            "mine @ file:///tmp/mine",
            "nvidia-cublas-cu12==12.8.4",
            "nvidia-cudnn-cu13==9.1",
            "nvidia-ml-py==13.0",
            "other @ file:///tmp/other",
            "pip==25.0",
            "torch==2.7.1+cu128",
            "triton==3.3",
            "xformers==0.0.30",
        ],
        "service": ["/workspace/ComfyUI/main.py"],
        "apt": ["ffmpeg", "libgl1"],
        "checks": [
            {"name": "Torch", "imports": ["torch"], "level": "critical"},
            {"name": "Models", "glob": ["models/*.safetensors"], "min_size_bytes": 1048576},
            {"name": "Faces", "service": "comfyui", "nodes": ["FaceSwap"]},
            {"name": "Elsewhere", "service": "other", "nodes": ["X"]},
        ],
    }

    converted = from_capture(parse(CaptureAnswer, found), "h")
    plan = plan_of(converted)

    assert plan.python is not None and plan.python.layers[1].packages == (
        "einops==0.8.0",
        "nvidia-ml-py==13.0",
    )
    assert plan.system_packages == ("ffmpeg", "libgl1")
    assert [check.name for check in plan.checks] == ["Torch", "Models", "Faces"]
    assert plan.checks[1].min_size_bytes == 1048576 and plan.checks[0].level == "critical"
    card, local = converted.unresolved
    assert card.startswith("`xformers==0.0.30` depends on driver and card")
    assert local.startswith("`mine @ file:///tmp/mine`, `other @ file:///tmp/other` have no exact version")


def test_what_is_converted_tells_editors_its_schema_first() -> None:
    text = Converted({"version": 1, "name": "x"}).to_yaml(comment="from y")
    schema, comment, *_ = text.splitlines()

    assert Path(schema.removeprefix("# yaml-language-server: $schema=")).is_file()
    assert comment == "# from y"


def test_a_process_without_a_script_is_no_service() -> None:
    found = parse(
        CaptureAnswer, {"comfyui": "ComfyUI", "workspace": "/w", "service": ["-u", "/opt/other.py"]}
    )

    converted = from_capture(found, "h")

    assert not plan_of(converted).services
    assert any("its service is not in the profile" in sentence for sentence in converted.unresolved)


# -- the published command


def test_the_commands_write_a_profile_that_loads_and_say_what_is_open(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.json").write_text(
        json.dumps({"nodes": [node(models=[model("x.safetensors")], widgets=["y.ckpt"])]})
    )
    Path("p.sh").write_text(SCRIPT)

    for words in (("from-workflow", "w.json"), ("import", "p.sh")):
        main(["profiles", *words, "-o", "made.yaml", "--json"])
        out, err = capsys.readouterr()
        facts = json.loads(out)
        assert facts["file"] == "made.yaml" and facts["unresolved"] and "open: " in err
        assert Profile.from_file("made.yaml").document.downloads
        main(["profiles", *words])
        out, _ = capsys.readouterr()
        assert yaml.safe_load(out)["downloads"] == facts["profile"]["downloads"]


def test_a_script_names_each_command_that_it_leaves_out_and_what_the_base_has(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clone = "git clone --recursive https://github.com"
    Path("p.sh").write_text(
        f"cd ComfyUI/custom_nodes\n{clone}/ltdrdata/ComfyUI-Manager\n{clone}/a/ComfyUI-b\nmkdir x\nsed -i s/1/2/ main.py\n"
    )
    Path("sed.sh").write_text("sed -i s/1/2/ main.py\n" * 2)

    main(["profiles", "import", "p.sh", "-o", "made.yaml"])
    _, err = capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["profiles", "import", "sed.sh"])

    assert "open: line 5: `sed -i s/1/2/ main.py` is not in the profile" in err and "mkdir" not in err
    assert (
        "note: `ComfyUI/custom_nodes/ComfyUI-Manager` is no item of its own: `comfyui-base` brings it" in err
    )
    assert err.startswith("`made.yaml` is written\n") and err.endswith("next: `provision check made.yaml`\n")
    assert yaml.safe_load(Path("made.yaml").read_text())["repos"][0]["submodules"] is True
    assert ended.value.code == 2 and "nothing of `sed.sh` became an item" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("from-workflow", "none.json"), ("import", "none.sh"), ("from-workflow", "p.txt")]
)
def test_a_file_that_cannot_be_read_ends_with_2(
    tmp_path: Path, monkeypatch, capsys, words: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("{")

    with pytest.raises(SystemExit) as exit_:
        main(["profiles", *words])

    assert exit_.value.code == 2
    assert "next:" in capsys.readouterr().err


LEFT_OUT = {
    "a cloud's metadata": (
        "http://169.254.169.254/latest/meta-data/iam/m.safetensors",
        "credentials of its machines",
    ),
    "the same, written as IPv6": (
        "http://[::ffff:169.254.169.254]/m.safetensors",
        "credentials of its machines",
    ),
    "a metadata host by name": (
        "http://metadata.google.internal/m.safetensors",
        "credentials of its machines",
    ),
    "a file": ("file:///etc/shadow", "a file of the instance itself"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_an_address_of_the_instance_itself_is_listed_and_not_taken(tmp_path: Path, case: str) -> None:
    url, why = LEFT_OUT[case]
    path = tmp_path / "x.sh"
    path.write_text(f'#!/bin/bash\nCHECKPOINT_MODELS=(\n"{url}"\n"https://example.org/n.safetensors"\n)\n')

    converted = from_file(path)

    assert [item["url"] for item in converted.listed("downloads")] == ["https://example.org/n.safetensors"]
    assert any(why in sentence and url in sentence for sentence in converted.unresolved)


def test_what_is_open_acts_on_no_terminal(tmp_path: Path) -> None:
    converted = from_file(_script(tmp_path, "https://example.org/n.safetensors"))
    converted.unresolve("a name with \x1b]0;owned\x07 and \u202e and \x9b31m")

    text = converted.to_yaml(comment="imported")

    assert "a name with \\x1b]0;owned\\x07 and \\u202e and \\x9b31m" in text


def _script(folder: Path, url: str) -> Path:
    path = folder / "x.sh"
    path.write_text(f'#!/bin/bash\nCHECKPOINT_MODELS=(\n"{url}"\n)\n')
    return path
