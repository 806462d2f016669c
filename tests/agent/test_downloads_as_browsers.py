"""Links as people copy them, and servers as they are: what curl, wget and a browser fetch arrives here too."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from harness import public_hosts
from harness.content import Content
from harness.downloads import Bench, quick
from harness.file_server import make_certificate
from harness.public_hosts import PublicHosts
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Download
from provision_agent.downloads import unpack
from provision_agent.downloads.http import cookies, fields, inflate
from provision_agent.downloads.sources import addresses

NAMES = (
    "drive.google.com",
    "docs.google.com",
    "drive.usercontent.google.com",
    "www.dropbox.com",
    "dropbox.com",
    "dl.dropboxusercontent.com",
    "civitai.com",
    "civitai.red",
    "r2.example.net",
)


@pytest.fixture(scope="module")
def public_certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_certificate(str(tmp_path_factory.mktemp("public")), *NAMES)


@pytest.fixture
def trusted(public_certificate: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A certificate for public names that this process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", public_certificate)
    return public_certificate


def model(seed: int = 1) -> bytes:
    return Content.safetensors(200_000, seed=seed).bytes()


def item(url: str, path: str, **limits: int) -> Download:
    return Download(url=url, path=path, limits=quick(**limits))


def arrives(bench: Bench, url: str, body: bytes, path: str = "m.safetensors") -> None:
    result = bench.fetch_one(item(url, path))

    assert result.state == "ok", bench.events[-3:]
    assert bench.path(path).read_bytes() == body


# -- redirects


@pytest.mark.parametrize("path", ["/get", "/latin"])
def test_a_redirect_to_an_address_of_raw_bytes_is_quoted_once(path: str, bench: Bench) -> None:
    with PublicHosts(public_hosts.utf8_redirects(model())) as host:
        arrives(bench, host.url(path), model())


def test_a_cookie_that_a_redirect_set_comes_back_to_its_origin_also_with_every_range(bench: Bench) -> None:
    with PublicHosts(public_hosts.cookie_gate(model())) as host:
        arrives(bench, host.url("/file"), model())

        gates = [asked for asked in host.asked if asked.path == "/gate"]
        assert len(gates) > 1


def test_a_cookie_reaches_no_other_origin_and_no_other_file(bench: Bench) -> None:
    with PublicHosts(public_hosts.cookie_gate(model())) as other:
        with PublicHosts(public_hosts.cookie_gate(model(), other.url("/gate"))) as host:
            assert bench.fetch_one(item(host.url("/away"), "a.safetensors")).state == "failed"
            arrives(bench, host.url("/file"), model())
            assert bench.fetch_one(item(host.url("/gate"), "b.safetensors")).state == "failed"

        assert [asked.headers.get("cookie") for asked in other.asked] == [None]


def test_cookies_are_few_and_small_and_stand_behind_the_items_own() -> None:
    hop = _Hop("http://a.test/1", (*(f"c{n}=1" for n in range(80)), "big=" + "x" * 5000, "bad\r\n=1", "x"))

    sent = cookies.added({"cookie": "mine=1", "Range": "bytes=0-"}, "http://a.test/2", [hop])

    assert sent == {"Range": "bytes=0-", "Cookie": "; ".join(["mine=1", *(f"c{n}=1" for n in range(50))])}
    assert cookies.added({}, "http://a.test:81/2", [hop]) == {}


class _Hop:
    def __init__(self, url: str, set_cookies: tuple[str, ...]) -> None:
        self.url, self.set_cookies = url, set_cookies


# -- bodies


TEXTS = {
    "/node.py": b"print('x')\n" * 3000,
    "/config.json": b'{"a": [1, 2]}\n' * 50,
    "/det.onnx": bytes(range(256)) * 400,
}


@pytest.mark.parametrize("coding", ["gzip", "x-gzip"])
@pytest.mark.parametrize("has_ranges", [False, True])
@pytest.mark.parametrize("path", TEXTS)
def test_what_a_server_compresses_unasked_arrives_as_the_file(
    path: str, has_ranges: bool, coding: str, bench: Bench
) -> None:
    with PublicHosts(public_hosts.gzip_always(TEXTS, coding=coding, has_ranges=has_ranges)) as host:
        arrives(bench, host.url(path), TEXTS[path], path[1:])


def test_an_archive_whose_name_says_gzip_stays_as_it_is(bench: Bench) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    body = packed.getvalue()

    with PublicHosts(public_hosts.gzip_always({"/a.tar.gz": body}, has_ranges=True)) as host:
        arrives(bench, host.url("/a.tar.gz"), body, "a.tar.gz")


def test_a_hash_is_that_of_the_file_and_not_of_what_came_over_the_line(bench: Bench) -> None:
    with PublicHosts(public_hosts.gzip_always({"/m.bin": b"spoilt" * 1000})) as host:
        result = bench.fetch_one(Download(url=host.url("/m.bin"), path="m.bin", sha256="0" * 64))

    assert result.failure is not None and result.failure.class_ == "checksum"
    assert bench.files() == []


def test_a_coding_that_cannot_be_undone_is_the_servers_trouble_and_is_named(bench: Bench) -> None:
    with PublicHosts(public_hosts.gzip_always(TEXTS, coding="br")) as host:
        result = bench.fetch_one(item(host.url("/node.py"), "node.py"))

    assert result.failure is not None
    assert (result.failure.class_, result.failure.case) == ("upstream_down", "coding")
    assert "`br`" in result.failure.message and "compression" in result.failure.hint


def _inflated(packed: bytes, coding: str = "gzip", at_once: int = 1000) -> bytes:
    source, out, view = io.BytesIO(packed), b"", memoryview(bytearray(at_once))
    inflater = inflate.Inflater(coding, "a.test")
    while not inflater.at_end:
        count = inflater.fill(
            view, lambda into: source.readinto(into) or 0, lambda: source.tell() >= len(packed)
        )
        out += bytes(view[:count])
    return out


def test_every_way_to_compress_is_undone_in_pieces() -> None:
    text = b"some text, and more " * 20_000
    raw = zlib.compressobj(wbits=-15)

    assert _inflated(gzip.compress(text)) == text
    assert _inflated(gzip.compress(text) + gzip.compress(b"and", mtime=0) + b"\0" * 512) == text + b"and"
    assert _inflated(zlib.compress(text), "deflate") == text
    assert _inflated(raw.compress(text) + raw.flush(), "deflate") == text
    assert _inflated(gzip.compress(b"", mtime=0)) == b"" == _inflated(b"")


SPOILT = {
    "cut short": (gzip.compress(b"text" * 100, mtime=0)[:-9], "truncated"),
    "never compressed": (b"no gzip at all", "not_a_model"),
    "more behind it": (gzip.compress(b"x", mtime=0) + b"junk", "not_a_model"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_compressed_body_that_is_broken_is_told_by_its_class(how: str) -> None:
    spoilt, class_ = SPOILT[how]
    with pytest.raises(Failure) as raised:
        _inflated(spoilt)

    assert raised.value.class_ == class_


def test_a_small_body_that_unpacks_to_a_huge_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "FREE_BYTES", 1 << 20)

    with pytest.raises(Failure) as raised:
        _inflated(gzip.compress(bytes(64 << 20)), at_once=1 << 16)

    assert (raised.value.class_, raised.value.case) == ("size", "size_lie")


def test_a_source_without_ranges_may_have_another_length_each_time(bench: Bench) -> None:
    with PublicHosts(public_hosts.made_on_the_fly(b"PK")) as host:
        result = bench.fetch_one(item(host.url("/main.bin"), "main.bin"))

        assert result.state == "ok", bench.events[-3:]
        assert bench.path("main.bin").stat().st_size == 2 + 1000 * len(host.asked)
        assert len(host.asked) == 2


# -- names


DISPOSITIONS = {
    b"attachment; filename*=UTF-8''flux-dev.safetensors; filename=\"x\"": "flux-dev.safetensors",
    b"attachment; filename*=utf-8'en'portrait-v2.safetensors": "portrait-v2.safetensors",
    b"attachment; filename*=iso-8859-1'fr'd%e9tail.bin": "détail.bin",
    b"attachment; filename=\"plain.bin\"; filename*=koi8-r''%c4.bin": "plain.bin",
    'attachment; filename="肖像_v1.safetensors"'.encode(): "肖像_v1.safetensors",
    'attachment; filename="détail.safetensors"'.encode(): "détail.safetensors",
    'attachment; filename="détail.safetensors"'.encode("latin-1"): "détail.safetensors",
    b"attachment; filename=My Lora v2.safetensors": "My Lora v2.safetensors",
    b"attachment; filename = My Lora v2.safetensors ; size=7": "My Lora v2.safetensors",
    b'attachment; filename="a;b.safetensors"': "a;b.safetensors",
    b'attachment; name="filename=wrong.bin"; FileName="right.bin"': "right.bin",
    b'inline;filename="sub/dir/model.safetensors"': "model.safetensors",
    b'attachment; filename="C:\\fakepath\\model.bin"': "model.bin",
    b'attachment; filename="say \\"hi\\".bin"': 'say "hi".bin',
    b"filename=bare.bin": "bare.bin",
    b"attachment": "",
}


@pytest.mark.parametrize("header", DISPOSITIONS)
def test_a_servers_name_is_read_as_wget_reads_it(header: bytes) -> None:
    assert fields.file_name(header.decode("latin-1")) == DISPOSITIONS[header]


@pytest.mark.parametrize("name", ["../m.bin", "a/../../m.bin", "/etc/passwd", "..\\m.bin", "\\\\host\\m.bin"])
def test_a_servers_name_that_climbs_or_begins_at_the_root_stays_a_path(name: str) -> None:
    assert fields.unusable(fields.file_name(f'attachment; filename="{name}"')) is not None


# -- links


DRIVE = {
    "https://drive.google.com/file/d/PUBLIC/view?usp=sharing": "PUBLIC",
    "https://drive.google.com/file/d/PUBLIC": "PUBLIC",
    "https://drive.google.com/file/d/PUBLIC/edit": "PUBLIC",
    "https://drive.google.com/file/u/1/d/PUBLIC/view": "PUBLIC",
    "https://drive.google.com/a/example.org/file/d/PUBLIC/view": "PUBLIC",
    "https://drive.google.com/u/0/file/d/PUBLIC/view": "PUBLIC",
    "https://drive.google.com/open?id=PUBLIC": "PUBLIC",
    "https://drive.google.com/a/example.org/open?id=PUBLIC": "PUBLIC",
    "https://drive.google.com/uc?export=download&id=PUBLIC": "PUBLIC",
    "https://drive.google.com/u/0/uc?id=PUBLIC&export=download": "PUBLIC",
    "https://docs.google.com/uc?export=download&id=PUBLIC": "PUBLIC",
    "https://drive.usercontent.google.com/download?id=PUBLIC&export=download&authuser=0": "PUBLIC",
    "https://drive.usercontent.google.com/uc?id=PUBLIC": "PUBLIC",
    "https://drive.google.com/file/d/OLD/view?usp=sharing&resourcekey=0-KEY": "OLD",
    "https://drive.google.com/open?id=OLD&resourcekey=0-KEY": "OLD",
    "https://drive.usercontent.google.com/download?id=OLD&resourcekey=0-KEY": "OLD",
}


@pytest.mark.parametrize("url", DRIVE)
def test_a_link_of_google_drive_brings_its_file(
    url: str, bench: Bench, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"PUBLIC": model(1), "OLD": model(2)}
    with PublicHosts(public_hosts.google_drive(files, {"OLD": "0-KEY"}), trusted) as host:
        monkeypatch.setenv("https_proxy", host.proxy)
        arrives(bench, url, files[DRIVE[url]])


DROPBOX = [
    "https://www.dropbox.com/s/abc/m.safetensors",
    "https://www.dropbox.com/s/abc/m.safetensors?dl=0",
    "https://dropbox.com/s/abc/m.safetensors?raw=1",
    "https://www.dropbox.com/scl/fi/abc/m.safetensors?rlkey=k&st=x&dl=0",
    "https://dl.dropboxusercontent.com/scl/fi/abc/m.safetensors?rlkey=k",
    "https://dl.dropboxusercontent.com/s/abc/m.safetensors",
]


@pytest.mark.parametrize("url", DROPBOX)
def test_a_link_of_dropbox_brings_its_file(
    url: str, bench: Bench, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"/s/abc/m.safetensors": model(1), "/scl/fi/abc/m.safetensors": model(1)}
    with PublicHosts(public_hosts.dropbox(files), trusted) as host:
        monkeypatch.setenv("https_proxy", host.proxy)
        arrives(bench, url, model(1))


CIVITAI = {
    "https://civitai.com/models/497255?modelVersionId=574841": "574841",
    "https://civitai.com/models/497255/some-name?modelVersionId=574841": "574841",
    "https://www.civitai.com/models/497255/some-name?modelVersionId=574841": "574841",
    "https://civitai.red/models/497255/some-name?modelVersionId=574841": "574841",
    "https://civitai.red/api/download/models/574841": "574841",
    "https://civitai.com/model-versions/574841": "574841",
    "https://civitai.com/api/download/models/574841?type=Model&format=SafeTensor&size=full&fp=fp16": "574841",
    "civitai:574841": "574841",
    "civitai:497255@574841": "574841",
    "urn:air:sdxl:lora:civitai:497255@574841": "574841",
    "air:sd3:checkpoint:civitai:497255@574841.safetensors": "574841",
    "https://civitai.com/models/497255/some-name": "600000",
    "https://civitai.red/models/497255": "600000",
    "urn:air:sdxl:lora:civitai:497255": "600000",
}


@pytest.mark.parametrize("url", CIVITAI)
def test_a_link_or_name_of_civitai_brings_the_file_of_its_version(
    url: str, bench: Bench, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"574841": model(1), "600000": model(2)}
    with PublicHosts(public_hosts.civitai(versions), trusted) as host:
        monkeypatch.setenv("https_proxy", host.proxy)
        arrives(bench, url, versions[CIVITAI[url]])

        catalogue = [asked for asked in host.asked if asked.path == "/api/v1/models/497255"]
        said = [str(event.get("message")) for event in bench.events if event["event"] == "warning"]
        is_chosen = CIVITAI[url] == "600000"
        assert len(catalogue) == is_chosen
        assert [("its newest is taken, 600000 (v600000)" in each) for each in said] == [True] * is_chosen


def test_a_model_whose_versions_nobody_tells_says_what_to_write(
    bench: Bench, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PublicHosts(public_hosts.civitai({}), trusted) as host:
        monkeypatch.setenv("https_proxy", host.proxy)
        result = bench.fetch_one(item("https://civitai.com/models/1/x", "m.safetensors", attempts=1))

    assert result.failure is not None and result.failure.case == "no_version"
    assert "civitai:VERSION" in result.failure.hint


def test_an_air_name_of_another_site_is_in_no_known_form() -> None:
    with pytest.raises(Failure) as raised:
        addresses.address_of("urn:air:sd1:model:huggingface:owner/name")

    assert raised.value.class_ == "not_found"


# -- archives


def _zip(system: int, *names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, system
            archive.writestr(info, b"" if name.endswith("\\") else name.encode())
    return packed.getvalue()


@pytest.mark.parametrize("system", [0, 10, 11, 14])
def test_a_zip_of_windows_has_folders_behind_its_strokes(system: int, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(_zip(system, "Pack\\", "Pack\\loras\\a.bin", "Pack\\readme.txt"))

    written = unpack.unpack(str(tmp_path / "a.zip"), str(tmp_path), "zip", stop=lambda: False)

    assert {(each.path, each.kind) for each in written} == {
        ("Pack", "folder"),
        ("Pack/loras/a.bin", "file"),
        ("Pack/readme.txt", "file"),
    }
    assert (tmp_path / "Pack/loras/a.bin").read_bytes() == b"Pack\\loras\\a.bin"


@pytest.mark.parametrize(
    ("system", "name"), [(0, "..\\out.bin"), (0, "\\out.bin"), (10, "a\\..\\..\\out.bin"), (3, "a\\b.bin")]
)
def test_a_stroke_of_windows_leads_nowhere_out_and_means_nothing_on_unix(
    system: int, name: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.zip").write_bytes(_zip(system, name))

    with pytest.raises(Failure) as raised:
        unpack.unpack(str(tmp_path / "in/a.zip"), str(tmp_path / "in"), "zip", stop=lambda: False)

    assert raised.value.class_ == "unsafe_path"
    assert [each.name for each in tmp_path.rglob("*")] == ["in", "a.zip"]
