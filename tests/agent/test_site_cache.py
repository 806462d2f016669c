"""A site's own cache goes first where a hash proves what it brings, and costs nothing where it has nothing."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.content import Content
from harness.downloads import Bench, quick
from harness.file_server import Fault, FileServer
from provision_agent.contract.plan import Basic, Download
from provision_agent.contract.plan_parts import Limits, SecretRule
from provision_agent.downloads import site_cache

MIB = 1 << 20
DOCS = Path(__file__).parent.parent.parent / "docs" / "SERVER.md"


@pytest.fixture
def cache() -> Iterator[FileServer]:
    with FileServer("127.0.0.2") as made:
        yield made


def limits(cache: FileServer) -> Limits:
    return Limits(cache=cache.url("/{host}/{path}"), connections=2)


def put(server: FileServer, cache: FileServer, *faults: Fault, has: Content | None = None) -> Download:
    """A file at *server*, and what *cache* has of it."""
    content = Content.safetensors(4 * MIB, seed=3)
    url = server.add("/a/m.safetensors", content)
    cache.add(f"/127.0.0.1:{server.port}/a/m.safetensors", has or content, *faults)
    return Download(url=url, path="m.safetensors", sha256=content.sha256, limits=quick())


def test_what_the_cache_has_comes_from_it_alone(bench: Bench, server: FileServer, cache: FileServer) -> None:
    item = put(server, cache)

    assert bench.fetch_one(item, limits(cache)).state == "ok"
    assert server.requests == []


@pytest.mark.parametrize(
    "trouble",
    [
        Fault(status=404),
        Fault(status=502),
        Fault(status=429, headers={"Retry-After": "60"}),
        Fault(content=Content.safetensors(4 * MIB, seed=4)),
        Fault(content=Content(10)),
        Fault(reset_after=MIB, times=None),
    ],
    ids=["not there", "broken", "busy", "other content", "another size", "breaks off"],
)
def test_trouble_with_the_cache_is_none_of_the_file(
    trouble: Fault, bench: Bench, server: FileServer, cache: FileServer
) -> None:
    item = put(server, cache, trouble)
    results = bench.fetch_as_runs_do(item, limits=limits(cache))

    assert results["m.safetensors"].state == "ok"
    assert bench.path("m.safetensors").read_bytes() == Content.safetensors(4 * MIB, seed=3).bytes()
    assert bench.named("waiting") == []
    assert [event["class"] for event in bench.named("retried") if event["attempt"]] == []


def test_a_cache_that_cannot_be_reached_is_not_waited_for(bench: Bench, server: FileServer) -> None:
    content = Content(MIB)
    item = Download(url=server.add("/m", content), path="m", sha256=content.sha256, limits=quick())
    bench.patience_s = 20.0

    result = bench.fetch_one(item, Limits(cache="http://127.0.0.1:9/{host}/{path}"))

    assert result.state == "ok"
    assert bench.named("waiting") == []


def test_a_file_that_nobody_has_is_told_in_the_words_of_its_source(
    bench: Bench, server: FileServer, cache: FileServer
) -> None:
    item = put(server, cache, Fault(status=502))
    server.set_faults("/a/m.safetensors", Fault(status=404))

    failure = bench.fetch_one(item, limits(cache)).failure

    assert failure is not None and failure.class_ == "not_found"
    assert failure.message.startswith("127.0.0.1 answered 404")


def test_no_cache_is_asked_where_nothing_proves_its_answer_or_a_secret_is_shown() -> None:
    cache = "http://c/{host}/{path}"
    item = Download(url="hf://o/r@abc/m.bin?x", path="m", sha256="0" * 64)

    assert site_cache.url_at(cache, item) == "http://c/huggingface.co/o/r/resolve/abc/m.bin%3Fx"
    assert site_cache.url_at(None, item) is None
    assert site_cache.url_at(cache, replace(item, sha256=None)) is None
    assert site_cache.url_at(cache, replace(item, basic=Basic("u", "S"))) is None
    for url in ("file:///m", "s3://b/k", "https://u@h/m", "https://h/m?X-Amz-Signature=1"):
        assert site_cache.url_at(cache, replace(item, url=url)) is None


def test_a_token_of_the_source_does_not_reach_the_cache(
    bench: Bench, server: FileServer, cache: FileServer
) -> None:
    bench.rules, bench.secrets = (SecretRule("T", ("127.0.0.1",)),), {"T": "hush-hush"}

    bench.fetch_one(put(server, cache), limits(cache))

    assert {request.headers.get("authorization") for request in cache.requests} == {None}


@pytest.fixture
def nginx(tmp_path: Path, server: FileServer) -> Iterator[int]:
    """The port of a real nginx with the configuration of docs/SERVER.md."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no nginx here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = re.search(r"```nginx\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert told is not None
    site = told[1].replace("/var/cache/models", str(tmp_path / "cache")).replace("8080", f"127.0.0.1:{port}")
    site = re.sub(r"\(\?<origin>[^)]*\)", r"(?<origin>127\\.0\\.0\\.1:[0-9]+)", site)
    site = site.replace("https://$origin", "http://$origin")
    folders = "".join(
        f"{each}_temp_path {tmp_path}/{each};\n"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{folders}{site}\n}}\n"
    )
    child = subprocess.Popen([program, "-c", str(config), "-p", str(tmp_path)], stderr=subprocess.PIPE)
    try:
        for _ in range(200):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert child.poll() is None, child.stderr and child.stderr.read()
            time.sleep(0.02)
        yield port
    finally:
        child.terminate()
        child.communicate(timeout=10)


@pytest.mark.soak
def test_nginx_as_documented_fetches_each_slice_once_for_all_instances(
    nginx: int, tmp_path: Path, server: FileServer
) -> None:
    content = Content.safetensors(40 * MIB, seed=6)
    place = server.add("/cdn/m", content)
    url = server.add("/m.safetensors", content, Fault(redirect=f"{place}?X-Signature=1"))
    item = Download(url=url, path="m.safetensors", sha256=content.sha256, size_bytes=content.size)
    own = Limits(cache=f"http://127.0.0.1:{nginx}/{{host}}/{{path}}")
    for number in range(3):
        bench = Bench(tmp_path / f"w{number}")
        bench.root.mkdir()

        assert bench.fetch_one(item, own).state == "ok"
        assert bench.path("m.safetensors").read_bytes() == content.bytes()

    assert server.bytes_sent("/cdn/m") < 1.5 * content.size
