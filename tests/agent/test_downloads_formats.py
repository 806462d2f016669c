"""A wrong file is told by its first bytes, before the rest of it is fetched, and in words that help."""

from __future__ import annotations

import struct

import pytest
from harness.downloads import quick
from harness.file_server import Content, Fault
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import SecretRule
from provision_agent.downloads import formats, verify

MIB = 1 << 20
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR"
SAFETENSORS = struct.pack("<Q", 64) + b'{"__metadata__":{}}'
ZIP = b"PK\x03\x04" + b"\x14\0" * 20
PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
HTML = b"<!DOCTYPE html><html><head><title>Not here</title>"

WRONG = {
    "an HTML page, where a safetensors file was wanted": ("m.safetensors", HTML),
    "a PNG image, where a safetensors file was wanted": ("m.safetensors", PNG),
    "a zip archive, where a safetensors file was wanted": ("m.sft", ZIP),
    "a pickle of Python, where a safetensors file was wanted": ("m.safetensors", PICKLE),
    "a safetensors file, where a GGUF file was wanted": ("m.gguf", SAFETENSORS),
    "a safetensors file, where a PyTorch checkpoint was wanted": ("m.ckpt", SAFETENSORS),
    "a JPEG image, where a PyTorch checkpoint was wanted": ("m.pt", b"\xff\xd8\xff\xe0"),
    "an HTML page, where an image was wanted": ("m.png", HTML),
    "a safetensors file, where an image was wanted": ("m.png", SAFETENSORS),
    "a RAR archive, where a zip archive was wanted": ("m.zip", b"Rar!\x1a\x07\x01\0"),
    "a file of no known format, where a GGUF file was wanted": ("m.gguf", b"\0\1\2\3"),
    "a JSON text, where a binary file was wanted": ("m.bin", b'{"error": "no such model"}'),
}
RIGHT = {
    "safetensors": ("m.safetensors", SAFETENSORS),
    "gguf": ("m.gguf", b"GGUF\x03\0\0\0"),
    "a checkpoint of today": ("m.ckpt", ZIP),
    "a checkpoint of before": ("m.pt", PICKLE),
    "a checkpoint of some other tool": ("m.pth", b"\xaa\xbb\0\xdd"),
    "an image under another image's suffix": ("m.png", b"\xff\xd8\xff\xe0"),
    "any bytes": ("m.bin", b"\x07\x07"),
    "a tar that a server decompressed": ("m.tar.gz", b"a/\0" + b"\0" * 254 + b"ustar\0"),
    "a template": ("chat_template.jinja", b"{{- bos_token }}\n{%- if x %}"),
    "a notebook": ("n.ipynb", b'{\n "cells": []}'),
    "a map": ("m.geojson", b'{"type": "FeatureCollection"}'),
    "a page": ("page.html", HTML),
    "a name without suffix": ("LICENSE", HTML),
}


def full(head: bytes) -> bytes:
    """With random bytes behind it, as a large file has; text goes on as text."""
    filler = b" " if formats.is_text(head) else b"\xf7\x00\x93"
    return head + filler * 1024


@pytest.mark.parametrize("said", WRONG)
def test_the_words_say_what_was_found_and_what_was_wanted(said):
    name, head = WRONG[said]

    with pytest.raises(Failure) as caught:
        verify.check_head(full(head), name)

    assert caught.value.class_ == "not_a_model"
    assert caught.value.message.startswith(f"the server sent {said}")


@pytest.mark.parametrize("what", RIGHT)
def test_what_may_be_right_is_not_refused(what):
    name, head = RIGHT[what]

    verify.check_head(full(head), name)
    verify.refuse_page(full(head), name, "text/html" if name == "page.html" else "text/plain")


def test_a_head_that_is_cut_short_tells_nothing_unless_it_is_all_there_is():
    verify.check_head(b"\0" * 8, "m.safetensors")

    with pytest.raises(Failure):
        verify.check_head(b"\0" * 8, "m.safetensors", is_all=True)


def test_a_page_that_asks_for_a_login_is_a_matter_of_the_token_and_another_one_of_the_url():
    login = full(b"<!doctype html><title>Log in | Civitai</title>")
    hints = {}
    for head in (login, full(HTML)):
        with pytest.raises(Failure) as caught:
            verify.refuse_page(head, "m.safetensors", url="https://civitai.com/api/download/models/1")
        hints[head] = (caught.value.message, caught.value.hint)

    assert "a page that asks for a login, where a safetensors file was wanted" in hints[login][0]
    assert "`CIVITAI_TOKEN`" in hints[login][1]
    assert "open the URL in a browser" in hints[full(HTML)][1]


def test_a_login_page_that_came_with_a_token_says_that_the_token_is_refused(bench, certificate, monkeypatch):
    with pytest.raises(Failure) as caught:
        verify.refuse_page(
            full(b"<html><title>Sign in</title>"), "m.gguf", url="https://huggingface.co/x", token="HF_TOKEN"
        )

    assert "the value of `HF_TOKEN` is refused" in caught.value.hint


@pytest.mark.parametrize("url_name", ["m.safetensors", "download"])
def test_of_a_wrong_file_only_its_first_bytes_are_fetched(url_name, bench, server):
    """Whatever the URL calls it: the name that it would get says what is wanted."""
    wrong = server.add(f"/{url_name}", Content(64 * MIB, seed=5))
    item = Download(url=wrong, path="m.safetensors", limits=quick())

    result = bench.fetch_one(item)

    assert result.failure.class_ == "not_a_model"
    assert "where a safetensors file was wanted" in result.failure.message
    # what the kernel took into its buffers counts as sent
    assert server.bytes_sent(f"/{url_name}") <= 1 * MIB
    assert len(server.seen(f"/{url_name}")) == 1


def test_a_source_that_shows_a_right_beginning_and_sends_another_file_is_stopped_at_its_first_bytes(
    bench, server
):
    content = Content.safetensors(64 * MIB, seed=6)
    fault = Fault(content=Content(64 * MIB, seed=7), min_length=MIB)
    url = server.add("/m.safetensors", content, fault)
    item = Download(url=url, path="m.safetensors", limits=quick(connections=1))

    result = bench.fetch_one(item)

    assert result.failure.class_ == "not_a_model"
    assert result.bytes_downloaded <= MIB


def test_the_mirror_with_the_right_file_is_taken_at_once(bench, server):
    content = Content.safetensors(2 * MIB, seed=8)
    wrong = server.add("/wrong", Content(64 * MIB, seed=9))
    item = Download(url=wrong, mirrors=(server.add("/right", content),), path="m.safetensors", limits=quick())

    assert bench.fetch_one(item).state == "ok"
    assert server.bytes_sent("/wrong") <= MIB


def test_the_preflight_tells_a_wrong_file_before_anything_is_fetched(bench, server):
    bench.rules = (SecretRule("HF_TOKEN", ("huggingface.co",)),)
    url = server.add("/download", Content(MIB, seed=5))

    found = bench.preflight(Download(url=url, path="m.gguf", limits=quick()))

    assert found.failures["m.gguf"].class_ == "not_a_model"
