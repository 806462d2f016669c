"""Whole repositories of a model hub: listed page by page, filtered as the hub's own tools do, verified file by file."""

from __future__ import annotations

import json
import time

import pytest
from harness.file_server import Content, Fault, FileServer
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import repository_of
from provision_agent.downloads import Sources
from provision_agent.downloads.sources import hugging_face, repositories

SHA256 = "ab" * 32
TREE = "/api/models/owner/name/tree/main"


@pytest.fixture
def hub(monkeypatch):
    with FileServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url("").rstrip("/"))
        yield server


def page(*entries: object) -> Content:
    return Content.of(json.dumps(entries).encode())


def file(path: str, **more: object) -> dict:
    return {"type": "file", "path": path, "size": 5, "oid": "0" * 40, **more}


def listed(
    url: str = "hf://owner/name", path: str = "models/", **patterns: tuple[str, ...]
) -> list[Download]:
    item = Download(url=url, path=path, level="critical", **patterns)
    access = Sources((), {})
    listing = hugging_face.KIND.listing(url)
    assert listing is not None
    return repositories.files_of(item, listing, access, deadline=time.monotonic() + 10)


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("hf://owner/name", ("owner/name", "main", "")),
        ("hf://owner/name/", ("owner/name", "main", "")),
        ("hf://owner/name@v1", ("owner/name", "v1", "")),
        ("hf://owner/name@refs%2Fpr%2F1/unet/", ("owner/name", "refs/pr/1", "unet/")),
        ("hf://datasets/owner/name", ("datasets/owner/name", "main", "")),
        ("hf://owner/name/a.safetensors", None),
        ("https://huggingface.co/owner/name", None),
    ],
)
def test_a_repository_is_what_names_no_file(url: str, means: object) -> None:
    assert repository_of(url) == means


def test_every_page_is_read_and_what_the_listing_knows_of_a_file_is_demanded_of_it(hub: FileServer) -> None:
    large = file("unet/b.safetensors", size=9, lfs={"oid": SHA256, "size": 9 << 30})
    hub.add("/next", page(large))
    hub.add(
        TREE,
        page({"type": "directory", "path": "unet"}, file("config.json")),
        headers={"Link": '</next>; rel="next"'},
    )

    first, second = listed()

    assert (first.path, first.size_bytes, first.sha256) == ("models/config.json", 5, None)
    assert (second.path, second.size_bytes, second.sha256) == ("models/unet/b.safetensors", 9 << 30, SHA256)
    assert second.url == hub.url("/owner/name/resolve/main/unet/b.safetensors")
    assert second.level == "critical"


@pytest.mark.parametrize("size", [2**53 - 1, -1, True, 1.5, "5", None])
def test_a_size_that_no_file_can_have_is_not_taken_from_a_listing(size: object, hub: FileServer) -> None:
    hub.add(TREE, page(file("a.bin", size=size), file("b.bin", lfs={"oid": SHA256, "size": size})))

    assert [each.size_bytes for each in listed()] == [None, None]


@pytest.mark.parametrize("size", [2**63, 10**400, float("nan")])
def test_a_listing_with_numbers_that_are_none_is_the_hubs_fault(size: object, hub: FileServer) -> None:
    hub.add(TREE, page(file("a.bin", size=size)))

    with pytest.raises(Failure) as raised:
        listed()

    assert raised.value.class_ == "upstream_down"
    assert raised.value.retriable


def test_patterns_go_across_folders_and_what_is_excluded_is_out(hub: FileServer) -> None:
    hub.add(TREE, page(*map(file, ("a.safetensors", "x/b.safetensors", "x/b.fp16.safetensors", "x/c.bin"))))

    found = listed(include=("*.safetensors",), exclude=("*.fp16.*",))

    assert [each.path for each in found] == ["models/a.safetensors", "models/x/b.safetensors"]


def test_a_folder_of_a_repository_comes_without_its_own_name(hub: FileServer) -> None:
    hub.add(TREE, page(*map(file, ("a.bin", "x/b.bin", "x/y/c.bin", "xy/d.bin"))))

    assert [each.path for each in listed("hf://owner/name/x/")] == ["models/b.bin", "models/y/c.bin"]


@pytest.mark.parametrize("path", ["../a", "x/../../a", "/etc/a", "x//a", "a\\b", "a\n"])
def test_no_listing_leaves_the_folder(hub: FileServer, path: str) -> None:
    hub.add(TREE, page(file(path)))

    with pytest.raises(Failure, match="it calls") as caught:
        listed()

    assert caught.value.class_ == "unsafe_path"


def test_patterns_that_fit_nothing_are_said_as_such(hub: FileServer) -> None:
    hub.add(TREE, page(file("a.bin")))

    with pytest.raises(Failure) as caught:
        listed(include=("*.safetensors",))

    assert caught.value.class_ == "not_found"
    assert "include" in caught.value.hint


@pytest.mark.parametrize(
    ("answer", "class_", "retriable"),
    [
        (Fault(status=404), "not_found", False),
        (Fault(status=401, headers={"X-Error-Code": "GatedRepo"}), "gated", False),
        (Fault(status=503), "upstream_down", True),
    ],
)
def test_a_repository_that_cannot_be_listed_is_classed_as_a_file_would_be(
    hub: FileServer, answer: Fault, class_: str, retriable: bool
) -> None:
    hub.add(TREE, page(file("a.bin")), answer)

    with pytest.raises(Failure) as caught:
        listed()

    assert (caught.value.class_, caught.value.retriable) == (class_, retriable)


@pytest.mark.parametrize("text", [b"{}", b"[1]", b"[{}]", b"<html>", b'[{"path": 7}]'])
def test_a_listing_that_is_none_is_tried_again_later(hub: FileServer, text: bytes) -> None:
    hub.add(TREE, Content.of(text))

    with pytest.raises(Failure) as caught:
        listed()

    assert caught.value.class_ in ("upstream_down", "not_found")
