"""Sixty workflows: twelve kinds of content, each in five kinds of file."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable

from .pick import COMMIT, GGUF, NODES, Model, Pick

Data = dict[str, object]
LOADERS = {
    "checkpoints": "CheckpointLoaderSimple", "diffusion_models": "UNETLoader", "text_encoders": "CLIPLoader", "vae": "VAELoader",
    "loras": "LoraLoaderModelOnly", "controlnet": "ControlNetLoader", "upscale_models": "UpscaleModelLoader", "clip_vision": "CLIPVisionLoader",
}  # fmt: skip


def _node(number: int, kind: str, **properties: object) -> Data:
    return {
        "id": number,
        "type": kind,
        "pos": [0, 0],
        "mode": 0,
        "properties": {"Node name for S&R": kind, **properties},
        "widgets_values": [],
    }


def _entry(model: Model) -> Data:
    return {"name": model.name, "url": model.url, "directory": model.folder}


def _loader(number: int, model: Model, kind: str = "", folder: str = "") -> Data:
    node = _node(
        number, kind or LOADERS[model.folder], cnr_id="comfy-core", ver="0.3.60", models=[_entry(model)]
    )
    return {**node, "widgets_values": [f"{folder}{model.name}", "default"]}


def _core() -> list[Data]:
    return [
        _node(90, "KSampler", cnr_id="comfy-core"),
        _node(91, "VAEDecode", cnr_id="comfy-core"),
        _node(92, "MarkdownNote"),
    ]


def _loaders(pick: Pick, count: int) -> list[Data]:
    return [_loader(number, model) for number, model in enumerate(pick.models(count, *LOADERS), 1)]


def _graph(nodes: list[Data], **more: object) -> Data:
    return {
        "id": "0d2ee5e6-2b9c-4b6e-9a63-0d3c55b8d5c1",
        "nodes": nodes,
        "links": [],
        "groups": [],
        "version": 0.4,
        **more,
    }


def _customs(pick: Pick, count: int) -> list[tuple[str, str]]:
    """Repositories as `owner/name`, with a class of each."""
    return [(url.removeprefix("https://github.com/"), "") for url in pick.nodes(count)]


def with_registry_names(pick: Pick) -> Data:
    customs = [
        _node(20 + number, NODES[name][0], cnr_id=name.partition("/")[2].lower(), ver="1.1.0")
        for number, (name, _) in enumerate(_customs(pick, 3))
    ]
    return _graph([*_loaders(pick, 3), *customs, *_core()])


def with_owners(pick: Pick) -> Data:
    customs = [
        _node(20 + number, NODES[name][0], aux_id=name, ver=COMMIT)
        for number, (name, _) in enumerate(_customs(pick, 2))
    ]
    return _graph([*_loaders(pick, 2), *customs, *_core()])


def without_origins(pick: Pick) -> Data:
    nodes = [
        _node(20 + number, kind) for number, (name, _) in enumerate(_customs(pick, 3)) for kind in NODES[name]
    ]
    return _graph([*nodes, _node(90, "KSampler"), _node(91, "SomeCoreNode")])


def as_prompt(pick: Pick) -> Data:
    kinds = [NODES[name][1] for name, _ in _customs(pick, 3)]
    nodes = {
        str(number): {"class_type": kind, "inputs": {"seed": 1}}
        for number, kind in enumerate([*kinds, "KSampler"], 1)
    }
    return {
        **nodes,
        "9": {"class_type": "LoraLoader", "inputs": {"lora_name": "mine/own.safetensors", "model": ["4", 0]}},
    }


def in_subgraphs(pick: Pick) -> Data:
    name = _customs(pick, 1)[0][0]
    deep = {**_graph([_loader(1, pick.model("vae"))]), "id": "11111111-2222-4333-8444-555555555555"}
    inner = {
        **_graph(
            [_loader(2, pick.model("loras")), _node(3, NODES[name][0], aux_id=name)],
            definitions={"subgraphs": [deep]},
        ),
        "id": "21111111-2222-4333-8444-555555555555",
    }
    outer = [_node(5, "21111111-2222-4333-8444-555555555555"), *_loaders(pick, 1)]
    return _graph([*outer, *_core()], definitions={"subgraphs": [inner]})


def models_on_top(pick: Pick) -> Data:
    return _graph(_core(), models=list(map(_entry, pick.models(3))))


def wrapped(pick: Pick) -> Data:
    graph = with_owners(pick)
    return {
        "prompt": {"1": {"class_type": "KSampler", "inputs": {}}},
        "extra_data": {"extra_pnginfo": {"workflow": graph}},
    }


def quantized(pick: Pick) -> Data:
    pick.repo("city96/ComfyUI-GGUF")
    model = pick.model(among=GGUF)
    loader = _loader(1, model, "UnetLoaderGGUF", "flux/")
    return _graph(
        [
            {**loader, "properties": {"cnr_id": "comfyui-gguf", "models": [_entry(model)]}},
            *_loaders(pick, 2),
            *_core(),
        ]
    )


def with_strangers(pick: Pick) -> Data:
    lost = _node(30, "LoraLoader", cnr_id="comfy-core")
    lost["widgets_values"] = ["styles/nobody_knows.safetensors", 0.8]
    pick.holds += ["named:nobody_knows.safetensors", "named:ClassOfNobody", "named:never-published"]
    return _graph(
        [
            *_loaders(pick, 2),
            lost,
            _node(31, "ClassOfNobody"),
            _node(32, "X", cnr_id="never-published", ver="0.1"),
            *_core(),
        ]
    )


def with_versions(pick: Pick) -> Data:
    names = [name for name, _ in _customs(pick, 2)]
    versions = {f"{name.partition('/')[2]}/": "1.0.1" for name in names}
    return _graph(
        [*_loaders(pick, 2), *_core()],
        extra={"node_versions": {"comfy-core": "0.3.50", **versions}, "ds": {"scale": 1}},
    )


def switched_off(pick: Pick) -> Data:
    nodes = [{**each, "mode": mode} for each, mode in zip(_loaders(pick, 3), (0, 2, 4), strict=True)]
    name = _customs(pick, 1)[0][0]
    return _graph([*nodes, {**_node(20, NODES[name][0], aux_id=name), "mode": 4}, *_core()])


def in_folders(pick: Pick) -> Data:
    one, two = pick.models(2, "loras")
    return _graph([_loader(1, one, folder="characters\\"), _loader(2, two, folder="styles/ink/"), *_core()])


CONTENTS: tuple[Callable[[Pick], Data], ...] = (
    with_registry_names, with_owners, without_origins, as_prompt, in_subgraphs, models_on_top, wrapped, quantized, with_strangers,
    with_versions, switched_off, in_folders,
)  # fmt: skip


def plain(data: Data) -> tuple[bytes, str]:
    return json.dumps(data).encode(), "json"


def pretty(data: Data) -> tuple[bytes, str]:
    return json.dumps(data, indent=2, ensure_ascii=False).encode("utf-8-sig"), "json"


def png(data: Data) -> tuple[bytes, str]:
    return _png(b"tEXt", _name_of(data) + b"\0" + json.dumps(data).encode("latin-1")), "png"


def packed_png(data: Data) -> tuple[bytes, str]:
    text = zlib.compress(json.dumps(data).encode())
    return _png(b"iTXt", _name_of(data) + b"\0\x01\0\0\0" + text), "png"


def webp(data: Data) -> tuple[bytes, str]:
    exif = b"II*\0" + _name_of(data) + b":" + json.dumps(data).encode() + b"\0"
    chunks = (
        b"VP8L"
        + struct.pack("<I", 4)
        + b"\x2f\0\0\0"
        + b"EXIF"
        + struct.pack("<I", len(exif))
        + exif
        + b"\0" * (len(exif) % 2)
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks, "webp"


def _name_of(data: Data) -> bytes:
    return b"workflow" if "nodes" in data or "extra_data" in data else b"prompt"


def _png(kind: bytes, text: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (kind, text), (b"IDAT", zlib.compress(b"\0\0\0\0")), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


FILES: tuple[Callable[[Data], tuple[bytes, str]], ...] = (plain, pretty, png, packed_png, webp)
