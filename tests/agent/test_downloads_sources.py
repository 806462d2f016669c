"""Who is asked, with which words, and who gets to see a token: over TLS, through redirects and proxies."""

from __future__ import annotations

import base64
import json
import socket
import socketserver
import threading

import pytest
from harness.downloads import quick
from harness.file_server import Content, Fault, FileServer
from provision_agent.contract import source_kinds
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Basic, Download, HeaderSecret
from provision_agent.contract.plan_parts import HostLimits, Limits, SecretRule
from provision_agent.downloads import Sources
from provision_agent.downloads.http import errors
from provision_agent.downloads.sources import addresses, civitai
from provision_agent.downloads.sources.http import KIND

MIB = 1 << 20
TOKEN = "hf_hush-hush"


@pytest.fixture
def secure(certificate, monkeypatch):
    """An https server that this process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    with FileServer("127.0.0.1", certificate=certificate) as made:
        yield made


def with_token(bench, *hosts: str):
    bench.secrets = {"HF_TOKEN": TOKEN}
    bench.rules = (SecretRule("HF_TOKEN", hosts),)
    return bench


def authorizations(server: FileServer, path: str):
    return {request.headers.get("authorization") for request in server.seen(path)}


def test_a_file_arrives_over_tls_and_the_token_reaches_its_host(bench, secure):
    content = Content.safetensors(20 * MIB, seed=1)
    needed = Fault(status=401, unless_header=("Authorization", f"Bearer {TOKEN}"))
    url = secure.add("/m.safetensors", content, needed)

    result = with_token(bench, "127.0.0.1").fetch_one(
        Download(url=url, path="m.safetensors", sha256=content.sha256)
    )

    assert result.state == "ok"
    assert authorizations(secure, "/m.safetensors") == {f"Bearer {TOKEN}"}
    assert TOKEN not in str(bench.events)
    assert not [name for name in bench.files() if TOKEN.encode() in bench.path(name).read_bytes()]


def test_a_token_follows_a_redirect_within_its_origin(bench, secure):
    secure.add("/new", Content(MIB))
    url = secure.add("/old", Content(1), Fault(redirect="/new"))

    with_token(bench, "127.0.0.1").fetch_one(Download(url=url, path="m.bin"))

    assert authorizations(secure, "/new") == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("where", ["another host", "another port", "http", "away and back"])
def test_a_token_does_not_follow_a_redirect_to(where, bench, secure, certificate):
    """Not even if the other host is on the rule's list too."""
    plain = where == "http"
    with FileServer("127.0.0.1", certificate=None if plain else certificate) as other:
        other.add("/m", Content(MIB))
        target = other.url("/m", host="localhost" if where == "another host" else None)
        if where == "away and back":
            secure.add("/back", Content(MIB))
            other.add("/m", Content(1), Fault(redirect=secure.url("/back")))
        url = secure.add("/first", Content(1), Fault(redirect=target))

        result = with_token(bench, "127.0.0.1", "localhost").fetch_one(Download(url=url, path="m.bin"))

        assert result.state == "ok"
        assert authorizations(secure, "/first") == {f"Bearer {TOKEN}"}
        assert authorizations(other, "/m") == {None}
        assert authorizations(secure, "/back") <= {None}


@pytest.mark.parametrize("host", ["example.org", "0.0.1", "127.0.0.1.evil.test", "localhost"])
def test_a_token_goes_to_exactly_the_hosts_of_its_rule(host, bench, secure):
    url = secure.add("/m", Content(10))

    with_token(bench, host).fetch_one(Download(url=url, path="m.bin"))

    assert authorizations(secure, "/m") == {None}


def test_a_token_is_never_sent_without_tls(bench, server):
    url = server.add("/m", Content(10))

    with_token(bench, "127.0.0.1").fetch_one(Download(url=url, path="m.bin"))

    assert authorizations(server, "/m") == {None}


def test_a_certificate_that_nobody_vouches_for_is_refused_and_not_asked_again(bench, certificate):
    with FileServer(certificate=certificate) as stranger:
        result = bench.fetch_one(Download(url=stranger.add("/m", Content(10)), path="m.bin"))

    assert result.failure.class_ == "tls"
    assert "SSL_CERT_FILE" in result.failure.hint
    assert not bench.named("retried")


def test_a_tls_server_that_cuts_and_stalls_is_survived(bench, secure):
    content = Content.safetensors(24 * MIB, seed=2)
    url = secure.add(
        "/m.safetensors",
        content,
        Fault(reset_after=2 * MIB, times=3),
        Fault(stall_after=2 * MIB, times=2),
        Fault(end_after=2 * MIB, times=2),
    )

    result = bench.fetch_one(Download(url=url, path="m.safetensors", sha256=content.sha256, limits=quick()))

    assert result.state == "ok"


class Proxy(socketserver.ThreadingTCPServer):
    """A real CONNECT proxy on loopback; remembers the heads of what it was asked."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self) -> None:
        self.heads = []
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://user:pass%20word@127.0.0.1:{self.server_address[1]}"


class _ProxyHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        lines = []
        while True:
            line = self.rfile.readline().decode().strip()
            if not line:
                break
            lines.append(line)
        self.server.heads.append(lines)
        method, target = lines[0].split(" ")[:2]
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            first = b""
        else:
            host, _, port = target.split("/")[2].rpartition(":")
            first = "\r\n".join([lines[0], *lines[1:], "Connection: close", "", ""]).encode()
            first = first.replace(target.encode(), ("/" + target.split("/", 3)[3]).encode(), 1)
        with socket.create_connection((host, int(port)), timeout=5) as onward:
            onward.sendall(first)
            threading.Thread(target=self._pump, args=(self.request, onward), daemon=True).start()
            self._pump(onward, self.request)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def proxy():
    made = Proxy()
    yield made
    made.shutdown()
    made.server_close()


def test_https_goes_through_a_proxys_tunnel(bench, secure, proxy, monkeypatch):
    monkeypatch.setenv("https_proxy", proxy.url)
    content = Content(9 * MIB, seed=3)

    result = with_token(bench, "127.0.0.1").fetch_one(
        Download(url=secure.add("/m", content), path="m.bin", sha256=content.sha256)
    )

    assert result.state == "ok"
    assert all(head[0] == f"CONNECT 127.0.0.1:{secure.port} HTTP/1.1" for head in proxy.heads)
    assert "Proxy-Authorization: Basic dXNlcjpwYXNzIHdvcmQ=" in proxy.heads[0]
    assert TOKEN not in str(proxy.heads)


def test_http_goes_through_a_proxy_too(bench, server, proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    content = Content(3 * MIB, seed=4)

    result = bench.fetch_one(Download(url=server.add("/m", content), path="m.bin", sha256=content.sha256))

    assert result.state == "ok"
    assert proxy.heads[0][0] == f"GET {server.url('/m')} HTTP/1.1"


def test_no_proxy_is_honoured(bench, server, proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    assert bench.fetch_one(Download(url=server.add("/m", Content(10)), path="m.bin")).state == "ok"
    assert proxy.heads == []


def test_a_user_in_the_url_is_sent_to_that_origin_only_and_never_shown(bench, server):
    with FileServer("127.0.0.2") as storage:
        storage.add("/m", Content(MIB))
        server.add("/m", Content(1), Fault(redirect=storage.url("/m")))
        url = server.url("/m").replace("http://", "http://me:hush@")

        bench.fetch_one(Download(url=url, path="m.bin"))

        assert authorizations(server, "/m") == {"Basic bWU6aHVzaA=="}
        assert authorizations(storage, "/m") == {None}
        assert "hush" not in str(bench.events)


@pytest.fixture
def hub(server, monkeypatch):
    """A hub as Hugging Face is one: names, revisions, a storage behind a redirect."""
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    return server


def test_a_hubs_file_is_checked_against_the_hash_that_the_hub_gives(bench, hub):
    content = Content.safetensors(2 * MIB, seed=5)
    hub.add("/storage", content)
    linked = {"X-Linked-Etag": f'"{content.sha256}"', "X-Linked-Size": str(content.size)}
    hub.add("/owner/repo/resolve/main/m.safetensors", Content(1), Fault(redirect="/storage", headers=linked))

    good = bench.fetch_one(Download(url="hf://owner/repo/m.safetensors", path="m.safetensors"))
    hub.add("/storage", Content.safetensors(2 * MIB, seed=6))
    bad = bench.fetch_one(
        Download(url="hf://owner/repo@main/m.safetensors", path="n.safetensors", limits=quick(attempts=2))
    )

    assert good.state == "ok"
    assert bad.failure.class_ == "checksum"
    assert not bench.path("n.safetensors").exists()


def test_a_misspelt_file_of_a_hub_gets_a_suggestion(bench, hub):
    missing = "/Comfy-Org/Wan/resolve/main/split_files/vae/wan2.1_vae.safetensors"
    hub.add(missing, Content(1), Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}))
    names = [
        "split_files/vae/wan_2.1_vae.safetensors",
        "split_files/text_encoders/umt5.safetensors",
        "README.md",
    ]
    listing = json.dumps([{"type": "file", "path": name, "size": 1} for name in names]).encode()
    hub.add("/api/models/Comfy-Org/Wan/tree/main", Content.of(listing))

    failure = bench.fetch_one(Download(url=hub.url(missing), path="m.safetensors")).failure

    assert failure.class_ == "not_found"
    assert "`split_files/vae/wan_2.1_vae.safetensors`" in failure.hint


CLASSES = {
    "no token": (401, {}, None, "unauthorized", "HF_TOKEN"),
    "a token that is refused": (401, {}, "HF_TOKEN", "unauthorized", "refused"),
    "a token without the right": (403, {}, "HF_TOKEN", "unauthorized", "refused"),
    "gated, no token": (401, {"X-Error-Code": "GatedRepo"}, None, "gated", "https://huggingface.co/o/r "),
    "gated, with a token": (
        403,
        {"X-Error-Code": "GatedRepo"},
        "HF_TOKEN",
        "gated",
        "account of your `HF_TOKEN`",
    ),
    "a private repository": (401, {"X-Error-Code": "RepoNotFound"}, None, "not_found", "private"),
    "a missing file": (404, {"X-Error-Code": "EntryNotFound"}, None, "not_found", "spelling"),
    "a missing revision": (404, {"X-Error-Code": "RevisionNotFound"}, None, "not_found", "branch"),
    "gone": (410, {}, None, "not_found", ""),
    "a bad request": (400, {}, None, "not_found", "refuses"),
    "a broken server": (500, {}, None, "upstream_down", ""),
    "a timeout there": (408, {}, None, "upstream_down", ""),
    "cloudflare": (522, {}, None, "upstream_down", ""),
    "too many": (429, {}, None, "rate_limited", ""),
    "busy for a while": (503, {"Retry-After": "3"}, None, "rate_limited", ""),
    "busy": (503, {}, None, "upstream_down", ""),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_refusal_has_a_class_and_a_next_step(name):
    status, headers, token, class_, hint = CLASSES[name]

    url = "https://huggingface.co/o/r/resolve/main/f"
    refused = errors.Refused(status, headers, url, "code 429", token)
    failure = addresses.kind_that_answered(url, headers).refusal(refused, url, lambda other: None)

    assert failure.class_ == class_
    assert hint in failure.hint


WAITS = {
    "seconds": ({"Retry-After": "7"}, 7),
    "a date": ({"Retry-After": "Thu, 01 Jan 1970 00:00:30 GMT"}, 31),
    "a date that has passed": ({"Retry-After": "Wed, 31 Dec 1969 23:00:00 GMT"}, errors.MIN_WAIT_S),
    "nonsense": ({"Retry-After": "soon"}, errors.UNSAID_WAIT_S),
    "nothing": ({}, errors.UNSAID_WAIT_S),
    "the hub's own": ({"RateLimit": '"resolvers";r=0;t=87', "Retry-After": "1"}, 88),
    "another draft's": ({"RateLimit-Reset": "4"}, 5),
    "for ever": ({"Retry-After": "86400"}, errors.MAX_WAIT_S),
}


@pytest.mark.parametrize("name", WAITS)
def test_how_long_to_wait_is_read_from(name):
    headers, wait_s = WAITS[name]

    assert errors.asked_wait_s(headers, now=lambda: 0.0) == wait_s


ADDRESSES = {
    "hf://o/r/a/b c.bin": "https://huggingface.co/o/r/resolve/main/a/b%20c.bin",
    "hf://o/r@v1.0/b.bin": "https://huggingface.co/o/r/resolve/v1.0/b.bin",
    "hf://datasets/o/r@main/b.bin": "https://huggingface.co/datasets/o/r/resolve/main/b.bin",
    "https://huggingface.co/o/r/blob/main/b.bin": "https://huggingface.co/o/r/resolve/main/b.bin",
    "https://huggingface.co/o/r/resolve/main/b.bin?download=true": "https://huggingface.co/o/r/resolve/main/b.bin",
    "civitai:128713": "https://civitai.com/api/download/models/128713",
    "https://civitai.com/api/download/models/1?type=Model": "https://civitai.com/api/download/models/1?type=Model",
    "https://www.dropbox.com/s/x/m.bin?dl=0": "https://www.dropbox.com/s/x/m.bin?dl=1",
    "https://www.dropbox.com/scl/fi/x/m?rlkey=k&dl=0": "https://www.dropbox.com/scl/fi/x/m?rlkey=k&dl=1",
    "https://github.com/o/r/blob/main/m.bin": "https://github.com/o/r/raw/main/m.bin",
    "https://github.com/o/r/releases/download/v1/m.pth": "https://github.com/o/r/releases/download/v1/m.pth",
    "https://drive.google.com/file/d/1a-B/view?usp=sharing": (
        "https://drive.usercontent.google.com/download?id=1a-B&export=download&confirm=t"
    ),
    "https://example.org/m.bin?a=b": "https://example.org/m.bin?a=b",
}


@pytest.mark.parametrize("url", ADDRESSES)
def test_what_people_write_becomes_the_link_that_serves(url):
    assert addresses.address_of(url) == ADDRESSES[url]


@pytest.mark.parametrize("url", ["ftp://x/y", "m.bin", "hf://o/r", "civitai:name", "http://[broken/"])
def test_what_cannot_be_an_address_is_not_found(url):
    with pytest.raises(Failure) as raised:
        Sources((), {}).ask(url, within_s=1.0)

    assert raised.value.class_ == "not_found"


NAMES = {
    'attachment; filename="a b.bin"': "a b.bin",
    "attachment; filename=a.bin; size=7": "a.bin",
    "attachment; filename=\"x\"; filename*=UTF-8''%e2%82%ac.bin": "€.bin",
    None: "m.bin",
}


@pytest.mark.parametrize("disposition", NAMES)
def test_a_name_is_the_servers_or_the_urls(disposition):
    assert KIND.name("https://x.test/a/m.bin?b", disposition) == NAMES[disposition]


@pytest.mark.parametrize(
    "name", ["../m.bin", "/etc/passwd", "..", ".bashrc", "a/../b", "a/.b", "a\x00b", "x" * 300]
)
def test_a_name_that_is_a_path_or_hides_is_refused(name):
    with pytest.raises(Failure) as raised:
        KIND.name("https://x.test/", f'attachment; filename="{name}"')

    assert raised.value.class_ == "unsafe_path"


def test_civitais_catalogue_tells_the_hash_of_the_right_file_only():
    def file(name: str, size_kb: float, digit: str) -> object:
        return {"name": name, "sizeKB": size_kb, "hashes": {"SHA256": digit.upper() * 64}}

    listing = json.dumps(
        {"files": [file("a.pt", 10, "a"), file("b.pt", 20, "b"), file("c.pt", 20, "c")]}
    ).encode()

    assert civitai.listed_sha256(listing, "a.pt", 10 * 1024) == "a" * 64
    assert civitai.listed_sha256(listing, None, 10 * 1024) == "a" * 64
    assert civitai.listed_sha256(listing, "b.pt", 20 * 1024) == "b" * 64
    assert civitai.listed_sha256(listing, None, 20 * 1024) is None
    assert civitai.listed_sha256(b"not JSON", "a.pt", 1) is None


def test_a_redirect_to_a_login_page_means_that_a_token_is_missing(bench, server):
    server.add("/login", Content.of(b"<html>sign in</html>"), content_type="text/html")
    url = server.add("/m.bin", Content(1), Fault(redirect="/login?next=m"))

    assert bench.fetch_one(Download(url=url, path="m.bin")).failure.class_ == "unauthorized"


def test_no_request_calls_itself_python(bench, server):
    url = server.add("/m.bin", Content(MIB))

    bench.fetch_one(Download(url=url, path="m.bin"))

    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}
    assert not any("python" in request.headers["user-agent"].lower() for request in server.requests)


@pytest.mark.parametrize(
    "told",
    [
        {"status": 206, "headers": {"Content-Range": "bytes 0-1023/9223372036854775807"}},
        {"status": 206, "headers": {"Content-Range": "bytes 0-1023/" + "9" * 5000}},
        {"status": 200, "headers": {"Content-Length": "9223372036854775808"}},
    ],
)
@pytest.mark.parametrize("level", ["required", "optional"])
def test_a_size_that_no_file_has_is_the_sources_lie_and_costs_its_own_item_only(told, level, bench, server):
    lie = server.add("/lie", Content(1024), Fault(body=bytes(1024), **told))
    other_lie = server.add("/other-lie", Content(1024), Fault(body=bytes(1024), **told))
    honest = server.add("/honest", Content.safetensors(4096))
    engine = bench.engine(
        Download(url=lie, path="lie.bin", level=level, limits=quick()),
        Download(url=honest, path="honest.safetensors", level="critical"),
        Download(url=other_lie, mirrors=(honest,), path="mirrored.safetensors", limits=quick()),
    )
    try:
        found = engine.preflight()
        engine.start()
        assert engine.wait()
    finally:
        engine.stop()

    results = engine.results()
    assert found.too_big is None
    assert results["lie.bin"].failure.class_ == "size"
    assert "no file is that large" in results["lie.bin"].failure.message
    assert (results["honest.safetensors"].state, results["mirrored.safetensors"].state) == ("ok", "ok")


@pytest.fixture
def buckets(server, monkeypatch):
    """A server with the interface of Google Cloud Storage."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url(""))
    return server


def test_an_object_of_a_public_bucket_arrives_by_its_short_address(bench, buckets):
    content = Content.safetensors(2 * MIB, seed=9)
    buckets.add("/models/sd/v%201.safetensors", content)

    result = bench.fetch_one(
        Download(url="gs://models/sd/v 1.safetensors", path="models/", sha256=content.sha256)
    )

    assert result.state == "ok"
    assert bench.files() == ["models/v 1.safetensors"]


@pytest.mark.parametrize(
    ("status", "class_", "hint"), [(403, "unauthorized", "make it public"), (404, "not_found", "spelling")]
)
def test_an_object_that_a_bucket_does_not_give_has_a_class_and_a_next_step(
    status, class_, hint, bench, buckets
):
    buckets.add("/models/m.bin", Content(1), Fault(status=status))

    failure = bench.fetch_one(Download(url="gs://models/m.bin", path="m.bin")).failure

    assert failure.class_ == class_
    assert hint in failure.hint


def test_a_bucket_without_a_key_is_no_file():
    with pytest.raises(Failure) as raised:
        Sources((), {}).ask("gs://models/", within_s=1.0)

    assert raised.value.class_ == "not_found"
    assert "`gs://BUCKET/KEY`" in raised.value.hint


@pytest.mark.parametrize("name", source_kinds.SOURCE_KINDS)
def test_every_kind_of_source_has_a_module_that_answers_for_it(name):
    kind = source_kinds.SOURCE_KINDS[name]
    written = [form.start + "1/2/3" for form in kind.forms] + [
        f"https://{host.name}/m" for host in kind.hosts
    ]

    assert written
    for url in written:
        assert source_kinds.kind_of(url) == name
        assert type(addresses.kind_for(url)).__module__.rpartition(".")[2] == name


def with_default(*hosts: str, value: str = TOKEN) -> Sources:
    rules = [SecretRule("HF_TOKEN", hosts, is_default=True)]
    return Sources(rules=rules, secrets={"HF_TOKEN": value} if value else {})


def test_a_default_token_is_shown_only_where_somebody_is_refused_without_it(secure):
    needed = Fault(status=401, unless_header=("Authorization", f"Bearer {TOKEN}"))
    public, gated = secure.add("/public", Content(MIB)), secure.add("/gated", Content(MIB), needed)
    sources = with_default("127.0.0.1")

    assert sources.ask(public, within_s=5.0).token is None
    assert sources.refused_without == ()
    assert sources.ask(gated, within_s=5.0).token == "HF_TOKEN"
    assert sources.refused_without == ("HF_TOKEN",)
    assert authorizations(secure, "/public") == {None}
    assert [request.headers.get("authorization") for request in secure.seen("/gated")] == [
        None,
        f"Bearer {TOKEN}",
    ]


def test_a_default_token_that_is_not_set_is_told_as_wanted(secure):
    url = secure.add("/gated", Content(MIB), Fault(status=403))
    sources = with_default("127.0.0.1", value="")

    with pytest.raises(Failure) as refused:
        sources.ask(url, within_s=5.0)

    assert (refused.value.class_, sources.refused_without) == ("unauthorized", ("HF_TOKEN",))
    assert len(secure.seen("/gated")) == 1


@pytest.mark.parametrize("where", ["another host refuses", "not found", "asks to wait", "plain http"])
def test_a_default_token_stays_where(where, secure, certificate):
    with FileServer("127.0.0.1", certificate=None if where == "plain http" else certificate) as other:
        refusing = other.add("/m", Content(1), Fault(status=401))
        fault = {
            "another host refuses": Fault(redirect=refusing.replace("127.0.0.1", "localhost")),
            "not found": Fault(status=404),
            "asks to wait": Fault(status=429, headers={"Retry-After": "1"}),
            "plain http": Fault(status=401),
        }[where]
        url = refusing if where == "plain http" else secure.add("/first", Content(1), fault)
        sources = with_default("127.0.0.1", "localhost")

        with pytest.raises(Failure):
            sources.ask(url, within_s=5.0)

        assert {request.headers.get("authorization") for request in (*other.requests, *secure.requests)} == {
            None
        }
    assert sources.refused_without == ()


KEY, PASSWORD = "key-hush-hush", "pass hush"
LOGIN = "Basic " + base64.b64encode(f"reader:{PASSWORD}".encode()).decode()


def with_own(bench):
    bench.secrets = {"KEY": KEY, "PASSWORD": PASSWORD}
    bench.rules = (SecretRule("KEY"), SecretRule("PASSWORD"))
    return bench


def own_item(url: str, **more) -> Download:
    own = {
        "path": "m.bin",
        "headers": {"X-Api-Key": HeaderSecret("KEY")},
        "basic": Basic("reader", "PASSWORD"),
    }
    return Download(url=url, **{**own, **more})


def shown(server: FileServer) -> set[tuple[str | None, str | None]]:
    """What its clients showed: the header of their own, and the login."""
    headers = [request.headers for request in server.requests]
    return {(each.get("x-api-key"), each.get("authorization")) for each in headers}


def test_an_items_own_header_and_login_open_its_host(bench, secure):
    content = Content(3 * MIB, seed=4)
    refused = [
        Fault(status=403, unless_header=pair) for pair in (("X-Api-Key", KEY), ("Authorization", LOGIN))
    ]
    result = with_own(bench).fetch_one(own_item(secure.add("/m", content, *refused), sha256=content.sha256))

    assert result.state == "ok"
    assert shown(secure) == {(KEY, LOGIN)}
    assert not any(word in str(bench.events) for word in (KEY, PASSWORD, LOGIN[6:]))


def test_an_items_own_header_replaces_the_token_of_a_rule(bench, secure):
    url = secure.add("/m", Content(MIB))
    with_own(bench).secrets["HF_TOKEN"] = TOKEN
    bench.rules += (SecretRule("HF_TOKEN", ("127.0.0.1",)),)

    bench.fetch_one(own_item(url, headers={"authorization": HeaderSecret("KEY")}, basic=None))

    assert authorizations(secure, "/m") == {KEY}


@pytest.mark.parametrize("where", ["a redirect", "a mirror", "a redirect and back", "plain http"])
def test_an_items_own_header_reaches_no_other_origin_by(where, bench, secure, certificate):
    content = Content(MIB, seed=2)
    plain = where == "plain http"
    with FileServer("127.0.0.1", certificate=None if plain else certificate) as other:
        there, back = other.add("/m", content), secure.add("/back", content)
        if where == "a redirect and back":
            other.add("/m", Content(1), Fault(redirect=back))
        fault = Fault(status=404) if where == "a mirror" else Fault(redirect=there)
        url = there if plain else secure.add("/first", Content(1), fault)
        mirrors = (there,) if where == "a mirror" else ()

        result = with_own(bench).fetch_one(own_item(url, mirrors=mirrors, sha256=content.sha256))

        assert result.state == "ok"
        assert shown(other) == {(None, None)}
        assert {request.headers.get("x-api-key") for request in secure.seen("/back")} <= {None}


def test_an_items_secret_that_is_not_set_fails_that_source_and_its_mirror_serves(bench, secure, server):
    content = Content(MIB, seed=3)
    bench.rules = (SecretRule("KEY"),)
    alone = bench.fetch_one(own_item(secure.add("/m", content), basic=None))
    mirror = server.add("/m", content)
    mirrored = bench.fetch_one(own_item(secure.url("/m"), basic=None, mirrors=(mirror,), path="n.bin"))

    assert alone.failure is not None
    assert (alone.failure.class_, alone.failure.message) == (
        "unauthorized",
        "`KEY`, which the item's host wants, is not set",
    )
    assert mirrored.state == "ok"
    assert secure.requests == []


def test_a_secret_with_a_line_end_makes_no_second_header(bench, secure):
    with_own(bench).secrets["KEY"] = "x\r\nX-Evil: y"

    result = bench.fetch_one(own_item(secure.add("/m", Content(MIB)), basic=None))

    assert result.failure is not None and result.failure.class_ == "unauthorized"
    assert secure.requests == []


def test_a_rule_for_the_host_that_redirects_lead_to_is_kept(bench, server):
    with FileServer(host="127.0.0.2", bytes_per_s=8 * MIB) as there:
        items = []
        for number in range(3):
            content = Content(2 * MIB, seed=number)
            behind = there.add(f"/behind/{number}", content)
            url = server.add(f"/{number}", content, Fault(redirect=behind))
            items.append(Download(url=url, path=f"{number}.bin", limits=quick()))
        limits = Limits(hosts={"127.0.0.2": HostLimits(files=1, connections=2)})
        busy = 0
        most = 0

        counting = threading.Lock()

        def count(event: str, fields: dict) -> None:
            nonlocal busy, most
            with counting:
                busy += {"download_started": 1, "download_finished": -1}.get(event, 0)
                most = max(most, busy)

        bench.on_event = count
        results = bench.fetch_as_runs_do(*items, limits=limits)

        assert {result.state for result in results.values()} == {"ok"}
        assert most == 1
        assert max(there.peak(f"/behind/{number}") for number in range(3)) <= 2
