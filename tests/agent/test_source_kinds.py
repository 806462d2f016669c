"""Which address belongs to which kind of source, and what is known of its hosts."""

from __future__ import annotations

import pytest
from provision_agent.contract import source_kinds

KINDS = {
    "hf://o/r/m.bin": "hugging_face",
    "https://huggingface.co/o/r/resolve/main/m.bin": "hugging_face",
    "civitai:1": "civitai",
    "https://civitai.red/api/download/models/1": "civitai",
    "https://drive.google.com/file/d/1/view": "google_drive",
    "https://www.dropbox.com/s/x/m.bin": "dropbox",
    "https://github.com/o/r/blob/main/m.bin": "github",
    "file:///m.bin": "local",
    "https://example.org/m.bin": "http",
    "https://evilhuggingface.co/o/r/resolve/main/m.bin": "http",
    "http://[broken/": "http",
    "ftp://x/y": None,
    "m.bin": None,
}


@pytest.mark.parametrize("url", KINDS)
def test_an_address_belongs_to_one_kind(url):
    assert source_kinds.kind_of(url) == KINDS[url]


def test_a_stand_in_for_a_host_is_of_its_kind():
    environment = {"HF_ENDPOINT": "http://hub.test/hf/"}

    assert source_kinds.kind_of("http://hub.test/hf/o/r", environment) == "hugging_face"
    assert source_kinds.kind_of("http://hub.test/hfx/o/r", environment) == "http"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("hf://o/r/m.bin", "huggingface.co"),
        ("civitai:1", "civitai.com"),
        ("file:///m", "this disk"),
        ("https://user@H.test:8/m", "h.test"),
    ],
)
def test_a_host_is_named_as_people_know_it(url, host):
    assert source_kinds.host_of(url) == host


def test_a_host_below_a_known_one_wants_the_same_token():
    assert source_kinds.secret_for("cdn.civitai.green") == "CIVITAI_TOKEN"
    assert source_kinds.secret_for("huggingface.co") == "HF_TOKEN"
    assert source_kinds.secret_for("github.com") is None
    assert source_kinds.secret_for("example.org") is None


@pytest.mark.parametrize("url", ["hf://o", "civitai:name", "https://", "file:///", "ftp://x/y"])
def test_what_is_not_complete_is_not_known(url):
    assert not source_kinds.is_known(url)
