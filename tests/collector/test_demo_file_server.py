"""The demo's file hosts speak the HTTP that real ones do, and their files are real safetensors."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.request

import pytest
from provision_collector.demo.file_server import FileHost, Model

MODEL = Model(3_000_000, seed=1)
WHOLE = b"".join(MODEL.read(0, MODEL.size_bytes))


def fetch(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(
        url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


@pytest.fixture
def host():
    with FileHost({"/a.safetensors": MODEL}) as host:
        yield host


def test_the_whole_file_has_the_promised_size_hash_and_a_valid_header(host):
    status, body, headers = fetch(host.url("/a.safetensors"))

    assert (status, len(body)) == (200, MODEL.size_bytes)
    assert hashlib.sha256(body).hexdigest() == MODEL.sha256 == headers["ETag"].strip('"')
    length = int.from_bytes(body[:8], "little")
    tensor = json.loads(body[8 : 8 + length])["noise"]
    assert tensor["data_offsets"][1] == len(body) - 8 - length


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-300", 100, 301),
        ("bytes=1048000-2500000", 1_048_000, 2_500_001),
        ("bytes=2999999-", 2_999_999, 3_000_000),
        ("bytes=-5", 2_999_995, 3_000_000),
        ("bytes=10-9999999", 10, 3_000_000),
    ],
)
def test_a_range_is_exactly_those_bytes(host, asked, first, end):
    status, body, headers = fetch(host.url("/a.safetensors"), Range=asked)

    assert (status, headers["Content-Range"]) == (206, f"bytes {first}-{end - 1}/3000000")
    assert body == WHOLE[first:end]


def test_a_range_of_another_version_gets_the_whole_file(host):
    status, body, _ = fetch(host.url("/a.safetensors"), Range="bytes=5-", If_Range='"older"')

    assert (status, len(body)) == (200, MODEL.size_bytes)


def test_a_range_behind_the_end_is_refused_with_the_size(host):
    status, _, headers = fetch(host.url("/a.safetensors"), Range="bytes=3000000-")

    assert (status, headers["Content-Range"]) == (416, "bytes */3000000")


def test_faults_come_in_their_order_and_the_last_one_stays():
    with FileHost({"/a": MODEL}, faults={"/a": (503, 404)}) as host:
        answers = [fetch(host.url("/a"))[0] for _ in range(3)]

    assert answers == [503, 404, 404]


def test_a_fault_that_passes_is_followed_by_the_file():
    with FileHost({"/a": MODEL}, faults={"/a": (503, None)}) as host:
        answers = [fetch(host.url("/a"))[0] for _ in range(3)]

    assert answers == [503, 200, 200]


def test_a_slow_host_is_as_slow_as_asked():
    with FileHost({"/a": MODEL}, bytes_per_s=10e6) as host:
        began = time.monotonic()
        fetch(host.url("/a"))

        assert 0.25 < time.monotonic() - began < 5


def test_other_seeds_give_other_files_and_the_same_seed_the_same():
    assert Model(5000, seed=1).sha256 == Model(5000, seed=1).sha256 != Model(5000, seed=2).sha256
