"""Old workflows, pictures, snapshots and manifests as people have them: nodes without a registry id, subfolders, pins of a distribution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness.package_index import PackageIndex
from provision_agent.contract.plan import Plan
from provision_collector import Profile
from provision_collector.convert import Converted, from_workflows
from provision_collector.convert.files import from_file
from provision_collector.convert.manifest import from_manifest
from provision_collector.convert.node_list import NodeList, fetched
from provision_collector.convert.snapshot import from_snapshot
from provision_collector.errors import UsageError
from provision_collector.profile import compile_plan

IPADAPTER = "https://github.com/cubiq/ComfyUI_IPAdapter_plus"
NODE_MAP: dict[str, Any] = {
    "https://github.com/comfyanonymous/ComfyUI": [["KSampler", "SomeNewCoreNode"], {}],
    IPADAPTER: [["IPAdapterApply", "Shared"], {}],
    "https://github.com/a/other": [["Shared"], {}],
    "https://gist.github.com/x/y": [["OfAGist"], {}],
    "odd": 5,
}
OLD = {
    "nodes": [
        {"id": 1, "type": "KSampler", "properties": {}},
        {"id": 2, "type": "IPAdapterApply", "properties": {"Node name for S&R": "IPAdapterApply"}},
        {"id": 3, "type": "SomeNewCoreNode", "properties": {}},
        {"id": 4, "type": "Shared", "properties": {}},
        {"id": 5, "type": "NobodyKnows", "properties": {}},
        {"id": 6, "type": "Reroute", "properties": {}},
        {"id": 7, "type": "0d2ee5e6-2b9c-4b6e-9a63-0d3c55b8d5c1", "properties": {}},
    ]
}


def plan_of(converted: Converted) -> Plan:
    return compile_plan(Profile.from_text(converted.to_yaml(comment="test")))


def written(tmp_path: Path, data: object, name: str = "old.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("is_api", [False, True])
def test_nodes_that_say_no_origin_come_from_the_node_list_or_are_named(tmp_path: Path, is_api: bool) -> None:
    data: Any = OLD
    if is_api:
        data = {str(node["id"]): {"class_type": node["type"], "inputs": {}} for node in OLD["nodes"][:5]}
    path = written(tmp_path, data)

    known = from_workflows([path], node_list=lambda: NodeList.of(NODE_MAP))
    unknown = from_workflows([path])

    assert [(repo["url"], repo["install"]) for repo in known.listed("repos")] == [(IPADAPTER, "if_present")]
    named = "\n".join(known.unresolved)
    assert "`Shared` is in several repositories" in named and "https://github.com/a/other" in named
    assert "add their repositories under `repos:`: NobodyKnows" in named
    assert "SomeNewCoreNode" not in named
    assert plan_of(known).repos[-1].requirements == "requirements.txt"
    assert unknown.listed("repos") == []
    assert "IPAdapterApply, NobodyKnows, Shared, SomeNewCoreNode" in "\n".join(unknown.unresolved)
    assert "Reroute" not in "\n".join(unknown.unresolved)


def test_the_node_list_comes_from_the_index_once_and_without_it_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with PackageIndex() as index:
        files = {"comfyui_manager/extension-node-map.json": json.dumps(NODE_MAP)}
        index.add("comfyui-manager", "4.9", files={"comfyui_manager/x": ""})
        index.add("comfyui-manager", "4.10", files=files)
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        first, asked = fetched(), len(index.requests)
        again = fetched()
        assert len(index.requests) == asked, "it is kept"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    gone = fetched()

    assert first == again == NodeList.of(NODE_MAP)
    assert first is not None and first.repositories["IPAdapterApply"] == (IPADAPTER,)
    assert gone is None


def test_a_model_is_put_into_the_subfolder_where_its_node_looks_for_it(tmp_path: Path) -> None:
    model = {"name": "a.safetensors", "url": "https://example.org/a.safetensors", "directory": "loras"}
    node = {"id": 1, "type": "LoraLoader", "properties": {"cnr_id": "comfy-core", "models": [model]}}
    path = written(tmp_path, {"nodes": [{**node, "widgets_values": ["wan\\a.safetensors", 1, 1]}]})

    assert [item["path"] for item in from_workflows([path]).listed("downloads")] == [
        "ComfyUI/models/loras/wan/a.safetensors"
    ]


def test_a_webp_that_comfyui_saved_is_as_good_as_its_workflow(tmp_path: Path) -> None:
    workflow = json.dumps(OLD).encode()
    exif = b"Exif\0\0MM\0*" + b"\0" * 30 + b"prompt:{}\0" + b"workflow:" + workflow + b"\0"
    body = (
        b"WEBPVP8X"
        + (10).to_bytes(4, "little")
        + bytes(10)
        + b"EXIF"
        + len(exif).to_bytes(4, "little")
        + exif
    )
    path = tmp_path / "picture.webp"
    path.write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)

    assert "NobodyKnows" in "\n".join(from_workflows([path]).unresolved)


def test_what_only_a_distribution_has_is_no_pin_of_a_snapshot() -> None:
    pips = {
        "einops==0.8.0": "",
        "dbus-python==1.2.18": "",
        "python-apt==2.4.0+ubuntu4": "",
        "ufw==0.36.1": "",
        "six==1.16.0": "",
    }

    made = from_snapshot({"comfyui": "a" * 40, "pips": pips}, "mine")

    python = plan_of(made).python
    assert python is not None and python.layers[-1].packages == ("einops==0.8.0", "six==1.16.0")
    assert any(
        "`dbus-python==1.2.18`" in each and "left out" in each and "`apt:`" in each
        for each in made.unresolved
    )


def test_commands_of_a_manifest_that_only_install_are_layers_and_others_stay_commands() -> None:
    data = {
        "version": 1,
        "git_repos": [
            {
                "url": "https://github.com/a/tool",
                "dest": "/workspace/tool",
                "post_commands": [
                    "uv pip install -r requirements.txt",
                    "make all",
                    "pip install torch==2.7.1",
                ],
            }
        ],
        "pip_packages": [{"packages": ["numpy"], "args": "--torch-backend auto"}],
        "post_commands": ["pip install --no-deps einops sympy", "cd x && ./run"],
    }

    made = from_manifest(data, "vast")
    plan = plan_of(made)

    assert plan.repos[0].install == "requirements.txt"
    assert plan.python is not None
    assert [layer.packages for layer in plan.python.layers] == [("numpy",), ("--no-deps", "einops", "sympy")]
    assert [command.run[-1] for command in plan.commands] == [
        "make all",
        "pip install torch==2.7.1",
        "cd x && ./run",
    ]
    assert made.unresolved == []


HUB = "https://huggingface.co/a/model"


@pytest.mark.parametrize(
    ("entry", "url", "path", "layout"),
    [
        ({"url": HUB, "dest": "/workspace/m"}, "hf://a/model", "m/", "files"),
        ({"url": HUB}, "hf://a/model", "hub/", "hub"),
        ({"url": f"{HUB}/tree/v2", "dest": "/workspace/m/"}, "hf://a/model@v2", "m/", "files"),
    ],
)
def test_a_manifest_takes_a_whole_repository_of_the_hub(
    entry: dict[str, str], url: str, path: str, layout: str
) -> None:
    [item] = plan_of(from_manifest({"version": 1, "downloads": [entry]}, "m")).downloads

    assert (item.url, item.path, item.layout) == (url, path, layout)


def test_a_manifest_lists_in_full_what_no_item_is_for() -> None:
    workflow = "https://e.org/flows/portrait.json"
    far = "https://e.org/" + "x" * 200
    data = {
        "version": 1,
        "conda_packages": {"packages": ["nccl", "cudatoolkit=11.8"]},
        "extensions": [{"module": "provisioner_comfyui", "config": {"workflows": [workflow]}}],
        "apt_packages": ["ffmpeg", "$(id)"],
        "pip_packages": [{"packages": ["einops", "$(id)"]}],
        "downloads": [{"url": far, "dest": "/etc/x"}],
    }
    made = from_manifest(data, "m")
    told = "\n".join(made.unresolved)
    plan = plan_of(made)

    assert all(word in told for word in ("`nccl`", "`cudatoolkit=11.8`", workflow, far))
    assert told.count("$(id)") == 2
    assert [item.path for item in plan.downloads] == ["ComfyUI/user/default/workflows/portrait.json"]
    assert (
        plan.apt == ("ffmpeg",) and plan.python is not None and plan.python.layers[0].packages == ("einops",)
    )


def test_a_manifest_of_json_without_a_version_is_one_and_a_profile_is_none(tmp_path: Path) -> None:
    manifest = {"downloads": [{"url": "https://e.org/a.pt", "dest": "/workspace/a.pt"}]}
    profile = {"version": 1, "downloads": [{"url": "https://e.org/a.pt", "path": "a.pt"}]}

    assert from_file(written(tmp_path, manifest)).listed("downloads") != []
    with pytest.raises(UsageError, match="no manifest"):
        from_file(written(tmp_path, profile))


@pytest.mark.parametrize(
    "origin",
    [
        {"cnr_id": "comfyui-far-away", "ver": "1.0"},
        {"aux_id": "ComfyUI-Far-Away/", "ver": "1.0"},
        {"cnr_id": "another-name", "Node name for S&R": "FarNode"},
        {"aux_id": "FarNode", "Node name for S&R": "FarNode"},
    ],
)
def test_a_node_of_the_registry_is_found_by_its_name_or_its_classes(
    tmp_path: Path, origin: dict[str, str]
) -> None:
    known = NodeList.of({"https://github.com/a/ComfyUI-Far-Away": [["FarNode"], {}]})
    path = written(tmp_path, {"nodes": [{"id": 1, "type": "FarNode", "properties": origin}]})
    snapshot = {"comfyui": "0" * 40, "git_custom_nodes": {}, "cnr_custom_nodes": {"comfyui-far-away": "1.0"}}

    made = from_workflows([path], node_list=lambda: known)
    of_snapshot = from_snapshot(snapshot, "s", node_list=lambda: known)

    for each in (made, of_snapshot):
        assert "https://github.com/a/ComfyUI-Far-Away" in [repo["url"] for repo in each.listed("repos")]


def test_a_snapshot_asks_for_the_node_list_once_however_many_nodes_it_does_not_know() -> None:
    asked: list[None] = []
    nodes = {f"nobody-knows-{number}": "1.0" for number in range(3)}

    made = from_snapshot(
        {"comfyui": "0" * 40, "cnr_custom_nodes": nodes}, "s", node_list=lambda: asked.append(None)
    )

    assert asked == [None]
    assert all(f"`{node}`" in "\n".join(made.unresolved) for node in nodes)
